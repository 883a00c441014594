// Package reach is what a laptop may ask of a pod's agent beyond live update:
// connections from the pod, its nameservers, and what its process was given.
//
// On the laptop, [Dialer] and [Resolver] connect and resolve as the pod does,
// [GetPod] and [WatchFiles] fetch its environment and files. In the pod,
// [Server] answers: for its own process, or for a [Process] and a [Network] that it
// is given. Both speak over streams of package stream, one stream per
// flow or question; what a stream is for is said by its header:
//
//	tcp:HOST:PORT   HOST is a name, an IPv4 address or an IPv6 address in
//	                brackets. The agent connects and answers with a status; after
//	                a good one both sides send bytes as they come. A fin is a
//	                half-close, a reset is a reset.
//	udp:HOST:PORT   The same status, then datagrams both ways, each a uint16
//	                length and that many bytes. The length 65535 is a note of the
//	                agent instead, with a status as its one byte: an earlier
//	                datagram was refused. The agent ends a flow that was idle for
//	                60 seconds.
//	dns             DNS messages both ways, each a uint16 length and that many
//	                bytes. Questions may be asked before others are answered and
//	                are answered in any order, by their IDs. The agent asks the
//	                nameservers of its /etc/resolv.conf. The end of the stream
//	                abandons what is not answered.
//	pod             The agent sends a [Pod] as JSON and ends the stream.
//	files:JSON      JSON is {"mounts": [PATH...], "watch": BOOL}; no mounts stands
//	                for all. The agent sends frames, each a kind, a uint32 length
//	                and that many bytes: mounts with their entries, then the end
//	                of the snapshot. It ends the stream then, or, to watch, sends
//	                further snapshots of the mounts that have changed until the
//	                laptop ends it.
//
// A status is one byte, 0 when it went well. Otherwise it is a code, text
// follows, and the stream ends. All numbers are big endian. A header that the
// agent does not know resets the stream with [stream.CodeRefused].
//
// The environment and the files contain secrets. Whoever may open a stream gets
// them: what protects them is the session's token, which is worth as much as the
// right to run commands in the pod.
//
// All exported methods are safe for concurrent use. Whatever a call starts has
// ended when it returns, what a [Resolver] starts when it is closed. The package
// imports the standard library and package stream only, since it is part of the
// agent.
package reach
