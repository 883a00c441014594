// Package diskspace tells how much room a disk has left.
package diskspace
