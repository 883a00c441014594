// Package podview writes what a pod's process was given for other programs.
//
// The main functions are [WriteDotenv] and [WriteJSON], which write an environment.
// [Specified] is the one that a pod would be given of which no process runs.
// There are secrets in it; nothing of it is logged. All functions are safe for
// concurrent use.
package podview
