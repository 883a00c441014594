// Package podview works out what a process in a pod was given, its environment
// and its files, from the Kubernetes API alone. It is for pods without our agent;
// with one, package reach asks the process itself, which also knows what the
// image sets.
//
// The main function is [Get]: it fetches the ConfigMaps, Secrets, Kubernetes
// Services and tokens that a container refers to, all at once, and pure functions
// apply kubelet's rules to them. What results is what a container would be given
// that is started now: objects may have changed since the pod's was.
// [WriteDotenv] and [WriteJSON] write an environment for other programs.
//
// There are secrets in all of it; nothing of it is logged. All functions are safe
// for concurrent use.
package podview
