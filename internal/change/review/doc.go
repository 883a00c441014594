// Package review says what is wrong with a change and how risky it is. A
// [Reviewer] runs its checkers side by side on the checkout of a change's head
// commit, keeps the findings that the change is answerable for (those on lines
// that it touches, and those with a stated reason), merges findings that have
// one cause, and adds a risk score with its reasons. What was not checked is in
// the [Report] too, with why: a checker that fails, or that runs out of time, is
// never silence.
//
// The checkers are in the packages below, one for each source of knowledge; each
// implements [Checker]. Package sarif carries findings to and from other tools.
//
// A Reviewer is settings only and may review many changes at the same time. A
// Checker is called from several goroutines if its Reviewer is.
package review
