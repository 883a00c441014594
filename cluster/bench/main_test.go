package main

import (
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []int64
		want   int64
	}{
		{[]int64{7}, 7},
		{[]int64{9, 1, 5}, 5},
		{[]int64{9, 1, 5, 100}, 5},
	} {
		if got := median(c.values); got != c.want {
			t.Errorf("%v: got %d, want %d", c.values, got, c.want)
		}
	}
}

func TestResultNamesBothTimesAndTheirRatio(t *testing.T) {
	r := result{Runs: 3, NodeReady: []int64{300, 100, 200}, APIReady: []int64{100, 100, 90}, Ratio: 2, Target: target}
	var text, object strings.Builder
	if err := r.write(&text, false); err != nil {
		t.Fatal(err)
	}
	want := "cluster start to node ready 200 ms, kube-apiserver alone to ready 100 ms: 2.00 times (target 2.00), medians of 3 runs\n"
	if text.String() != want {
		t.Errorf("got %q\nwant %q", text.String(), want)
	}
	if err := r.write(&object, true); err != nil {
		t.Fatal(err)
	}
	if want := `{"runs":3,"nodeReady":[300,100,200],"apiReady":[100,100,90],"ratio":2,"target":2}` + "\n"; object.String() != want {
		t.Errorf("got %q\nwant %q", object.String(), want)
	}
}
