// Command mute takes jobs off a queue and has no port.
package main

import "example.com/replace/jobs"

func main() { jobs.Take("mute") }
