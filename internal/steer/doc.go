// Package steer decides where a request goes: to the app in its pod, to another
// version of it or to a laptop, and carries it there.
//
// The main type is [Host], the agent's side: the rules of one pod, and a [Door]
// for each of its ports. A door takes the connections that are meant for the app.
// Without a rule it splices them to the app and does not look at a byte. With
// rules it reads what a client says first, never asks the app, and routes HTTP/1
// and HTTP/2 by the request; whatever it does not understand goes to the app as it
// is. Connections to the app are never shared between clients, so a request that
// the door reads differently from the app can harm nobody but its sender.
//
// A [Split] shares the requests for a port between versions of the service, whose pods
// all have doors. The door that a request comes to decides, by cohorts, affinity and
// weights, and carries it to a pod of the other version if need be; the door
// there does not decide again. What is not HTTP goes to the app of the pod. Each
// request that was decided about has one [Outcome].
//
// The laptop's side is [Laptop]. It joins a rule to a pod over a session of package
// stream and answers the streams that the pod's agent then opens, one for each
// connection that is steered. A rule is a lease: the laptop says every second that
// it is there. When it falls silent, requests go to the app, and soon after the
// rule is gone.
//
// The rules themselves, [Pick] and [Overlap], [Split.Choose] and [Balance], the HTTP/1
// heads and the framing of bodies are pure code. All exported methods, but for those of
// Balance, are safe for concurrent use; whatever Serve, Handle and Join start has ended
// when they, or the [Membership], have.
package steer
