package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// mostLines is how many lines of one key are told.
const mostLines = 10

// Differs says what differs between two contents of a ConfigMap, a line each, as
// "timeouts.yaml: -read: 5s". hide takes out of a line what is secret.
func Differs(before, now Content, hide func(line string) string) (out []string) {
	for _, key := range keys(before, now) {
		was, had := before.Text[key]
		is, has := now.Text[key]
		_, binary := before.Binary[key]
		_, binaryNow := now.Binary[key]
		switch {
		case binary || binaryNow:
			if !slices.Equal(before.Binary[key], now.Binary[key]) || had || has {
				out = append(out, key+": other bytes")
			}
		case had && has && was == is:
		case !has:
			out = append(out, key+": gone")
		default:
			lines := changed(was, is)
			for _, l := range lines[:min(len(lines), mostLines)] {
				out = append(out, key+": "+l[:1]+hide(l[1:]))
			}
			if more := len(lines) - mostLines; more > 0 {
				out = append(out, fmt.Sprintf("%s: and %d lines more", key, more))
			}
			if len(lines) == 0 {
				out = append(out, key+": the same lines, in another order or with other ends")
			}
		}
	}
	return out
}

// DiffersSecretly says which keys of two Secrets differ, and never in what.
func DiffersSecretly(before, now Content) (out []string) {
	for _, key := range keys(before, now) {
		was, had := before.Binary[key]
		is, has := now.Binary[key]
		switch {
		case had && has && slices.Equal(was, is):
		case !had:
			out = append(out, key+": new")
		case !has:
			out = append(out, key+": gone")
		default:
			out = append(out, key+": another")
		}
	}
	return out
}

func keys(all ...Content) []string {
	names := map[string]bool{}
	for _, c := range all {
		for k := range c.Text {
			names[k] = true
		}
		for k := range c.Binary {
			names[k] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// changed are the lines that one text has and another has not, behind - and +, in order.
func changed(was, is string) (out []string) {
	if was == "" { // a new key
		for _, l := range lines(is) {
			out = append(out, "+"+l)
		}
		return out
	}
	count := map[string]int{}
	for _, l := range lines(is) {
		count[l]++
	}
	for _, l := range lines(was) {
		if count[l]--; count[l] < 0 {
			out = append(out, "-"+l)
		}
	}
	clear(count)
	for _, l := range lines(was) {
		count[l]++
	}
	for _, l := range lines(is) {
		if count[l]--; count[l] < 0 {
			out = append(out, "+"+l)
		}
	}
	return out
}

func lines(s string) []string {
	if s = strings.TrimSuffix(s, "\n"); s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}
