// Package stream makes one connection to a pod carry many byte streams and
// survive being cut.
//
// The main type is [Session]. The laptop gets one from [Client.Connect], the
// agent in the pod serves them with [Server.Serve]; either end opens a [Stream]
// (a net.Conn) on it. Both ends keep what the other has not confirmed, so when
// the transport below breaks, the client dials another one and both go on where
// they were: nothing is lost, doubled or reordered, and the streams do not
// notice more than a pause. Where there is a better way to the server than the one
// that a session began by ([Client.Direct]), it moves there without even that.
// A session that the server no longer knows, because
// the agent was restarted, ends with [ErrSessionLost].
//
// A session keeps no more bytes under way than the transport needs, because what
// relays hold ready stands before whatever is sent next; and streams that send
// little go before those that send much. So a small request beside a large
// transfer takes milliseconds, and a reader that stalls holds up nobody.
//
// All exported methods are safe for concurrent use. A session's goroutines have
// all ended when [Session.Done] is closed. The package imports the standard
// library only (it is part of the agent).
package stream
