// Package contract finds changes that break an API between services: documents
// in OpenAPI 3 and Protocol Buffers, compared with their base commit's versions.
// Its main type is [Checker].
//
// A Checker has no state and may be used from many goroutines.
package contract

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"

	"github.com/bightdev/bight/internal/change/review"
)

// Checker compares contracts.
type Checker struct{}

// Name implements [review.Checker].
func (c *Checker) Name() string { return "contract" }

// Check implements [review.Checker].
func (c *Checker) Check(ctx context.Context, in *review.Input) (review.Result, error) {
	var res review.Result
	protos := protoSet{base: definitions{}, head: definitions{}}
	for _, f := range in.Diff.Files {
		if ctx.Err() != nil {
			return res, context.Cause(ctx)
		}
		if f.Kind == review.Added || f.Kind == review.Copied || f.Submodule() || review.Vendored(f.Path) {
			if path.Ext(f.Path) == ".proto" && !f.Submodule() && !review.Vendored(f.Path) {
				_, head, err := versions(ctx, in, f) // what was moved into it is not removed
				note(&res, f, err)
				note(&res, f, protos.head.parse(f.Path, head))
			}
			continue
		}
		switch path.Ext(f.OldPath) {
		case ".proto", ".yaml", ".yml", ".json":
		default:
			continue
		}
		base, head, err := versions(ctx, in, f)
		if err != nil {
			if mayBeContract(f, base, head) {
				note(&res, f, err)
			}
			continue
		}
		if path.Ext(f.OldPath) == ".proto" {
			note(&res, f, protos.base.parse(f.OldPath, base))
			note(&res, f, protos.head.parse(f.Path, head))
			protos.moved(f)
			continue
		}
		switch {
		case openAPI3.Match(opening(base)):
			findings, err := compareOpenAPI(ctx, f, base, head)
			res.Findings = append(res.Findings, findings...)
			note(&res, f, err)
		case swagger2.Match(opening(base)):
			note(&res, f, errors.New("it is in OpenAPI 2, which is not compared: convert it to OpenAPI 3"))
		}
	}
	res.Findings = append(res.Findings, protos.compare()...)
	return res, nil
}

// How a document says what it is.
var (
	openAPI3 = regexp.MustCompile(`(?m)^[\s{]*["']?openapi["']?\s*:\s*["']?3\.`)
	swagger2 = regexp.MustCompile(`(?m)^[\s{]*["']?swagger["']?\s*:\s*["']?2\.`)
)

func opening(b []byte) []byte { return b[:min(len(b), 4<<10)] }

func mayBeContract(f *review.FileDiff, versions ...[]byte) bool {
	if path.Ext(f.OldPath) == ".proto" {
		return true
	}
	for _, v := range versions {
		if openAPI3.Match(opening(v)) {
			return true
		}
	}
	return false
}

// versions returns a file as the base commit and as the head commit have it; nil
// is that there is none.
func versions(ctx context.Context, in *review.Input, f *review.FileDiff) (base, head []byte, err error) {
	if f.Kind != review.Added && f.Kind != review.Copied {
		if base, err = in.ReadBase(ctx, f.OldPath); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err == nil && f.Kind != review.Deleted {
		head, err = in.Read(f.Path)
	}
	if err != nil {
		return base, head, fmt.Errorf("compare it with the base commit's version: %w", err)
	}
	return bytes.TrimPrefix(base, []byte("\xef\xbb\xbf")), bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), nil
}

func note(res *review.Result, f *review.FileDiff, err error) {
	if err != nil {
		res.Unchecked = append(res.Unchecked, review.Unchecked{What: f.Path, Why: err.Error()})
	}
}
