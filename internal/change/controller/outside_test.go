package controller

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/change/host"
)

func TestNewsOfAHost(t *testing.T) {
	own := host.Request{Number: 7, HeadBranch: "fix", HeadCommit: "f1", BaseBranch: "main"}
	fork := host.Request{Number: 8, HeadBranch: "main", HeadCommit: "m1", BaseBranch: "main", Fork: true}
	for _, test := range []struct {
		name string
		in   outside
		want news
	}{
		{"nothing new", outside{
			heads: map[string]string{"main": "a", "fix": "f1"}, seen: map[string]string{"heads/fix": "f1"},
		}, news{}},
		{"a branch is pushed", outside{
			heads: map[string]string{"main": "a", "fix": "f1"},
		}, news{come: []arrival{{seen: "heads/fix", ref: "refs/heads/fix", commit: "f1"}}}},
		{"a branch is forced", outside{
			heads: map[string]string{"main": "a", "fix": "f2"}, seen: map[string]string{"heads/fix": "f1"},
		}, news{come: []arrival{{seen: "heads/fix", ref: "refs/heads/fix", commit: "f2"}}}},
		{"environments are nobody's change", outside{
			heads: map[string]string{"main": "a", "bight/prod": "p"},
		}, news{}},
		{"what was there before is taken as it is, unless somebody asks", outside{
			first: true, heads: map[string]string{"main": "a", "fix": "f1", "old": "o1"}, requests: []host.Request{own},
		}, news{come: []arrival{
			{seen: "heads/fix", ref: "refs/heads/fix", commit: "f1", request: &own},
			{seen: "heads/old", ref: "refs/heads/old", commit: "o1", known: true},
		}}},
		{"a request from a fork", outside{
			heads: map[string]string{"main": "a"}, requests: []host.Request{fork}, forks: map[int]string{8: "m1", 9: "gone"},
		}, news{come: []arrival{{seen: "requests/8", ref: "refs/pull/8/head", commit: "m1", request: &fork}}}},
		{"a branch is deleted and a request closed", outside{
			heads: map[string]string{"main": "a"}, seen: map[string]string{"heads/fix": "f1", "requests/8": "m1"},
		}, news{gone: []departure{
			{"heads/fix", "refs/heads/fix", "f1", "branch fix was deleted at the host"},
			{"requests/8", "refs/pull/8/head", "m1", "request 8 was closed at the host"},
		}}},
		{"a name takes the place of its parent's", outside{
			heads: map[string]string{"main": "a", "fix/deep": "f2"}, seen: map[string]string{"heads/fix": "f1"},
		}, news{
			gone: []departure{{"heads/fix", "refs/heads/fix", "f1", "branch fix was deleted at the host"}},
			come: []arrival{{seen: "heads/fix/deep", ref: "refs/heads/fix/deep", commit: "f2"}},
		}},
	} {
		test.in.branch, test.in.requestRef = "main", "refs/pull/%d/head"
		if diff := cmp.Diff(test.want, compare(test.in), cmp.AllowUnexported(news{}, arrival{}, departure{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}
