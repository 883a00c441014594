// Package jail runs a command on this machine as though it were in a pod: with
// the cluster's network, names, files and host name, without root and without a
// change to the machine.
//
// The main type is [Jail]; [Start] makes one. The command gets a user, a network
// and a mount namespace of its own. In there, every address is local (a default
// route of type local on lo), and nftables hands each TCP connection and each
// datagram to sockets that this process holds, wherever they were going; this
// process stays outside, decides where a flow goes and carries it there with
// functions that the caller gave. A second process of the same program, the
// keeper, makes the namespaces and is the parent of the command in them; its only
// tie is a socket, and when that breaks it ends everything below it. The program's
// main function must call [Main] before anything else for that.
//
// What differs from a pod, because there is no way to do it or none without root:
//
//   - The kernel completes a TCP connection before the far side is asked. A
//     connection that is refused there is reset at once instead. Addresses in the
//     ranges of [Services] that have no such port are refused properly.
//   - ping and other ICMP is not carried. Nothing answers falsely: an echo request
//     is rejected: ping says "Packet filtered" or "Operation not permitted". In
//     ModeListeners it is not answered.
//   - Only the caller's own user and group exist. setuid programs such as sudo do
//     not work; other users' files belong to nobody. For root all users exist, but
//     not the capabilities that could change the network or the mounts.
//   - Sockets in the abstract namespace (X11's, some of D-Bus's) are out of reach;
//     those in files work.
//   - In the place of a directory that lacks something which the pod has, a copy of
//     it is shown whose entries are the real ones. What the command creates directly
//     in such a directory is gone with it. /etc is always one.
//   - What Machine names of this machine's loopback is at the command's, too, unless it
//     listens there itself. Where the kernel can't tell (ModeListeners; no nft_socket),
//     it can't listen there.
//   - The name server's address and port are taken: a command that itself is a name
//     server cannot bind port 53 of all addresses.
//
// All exported methods are safe for concurrent use. Each goroutine of a Jail has
// ended when Wait returns. Jails need Linux; elsewhere Start says so, and package
// proxy is what works.
package jail
