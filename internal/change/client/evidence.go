package client

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/release/spec"
)

// maxEvidence is more than there is of one release.
const maxEvidence = 256 << 20

// Evidence returns what is kept of a release, or [evidence.ErrNone].
func (c *Client) Evidence(ctx context.Context, namespace, release string) (*evidence.Bundle, error) {
	text, err := c.evidence(ctx, spec.BundlePath+"/"+namespace+"/"+release)
	if err != nil {
		return nil, err
	}
	return evidence.Read(text)
}

// Record returns what the judges of a release were told, a [verdict.Record] as text, or
// [evidence.ErrNone].
func (c *Client) Record(ctx context.Context, namespace, release string) ([]byte, error) {
	packed, err := c.evidence(ctx, spec.RecordPath+"/"+namespace+"/"+release)
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("read the controller's answer: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(z, maxEvidence+1))
	if err != nil {
		return nil, fmt.Errorf("read the controller's answer: %w", err)
	}
	if len(text) > maxEvidence {
		return nil, fmt.Errorf("the controller's answer has more than %d bytes, which is no record of a release", maxEvidence)
	}
	return text, nil
}

func (c *Client) evidence(ctx context.Context, path string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := c.HTTP().Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask the controller for evidence: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask the controller for evidence: %w", err)
	case answer.StatusCode == http.StatusNotFound:
		return nil, evidence.ErrNone
	case answer.StatusCode != http.StatusOK:
		return nil, &AnswerError{Status: answer.StatusCode, Text: strings.TrimSpace(string(text[:min(len(text), 4096)]))}
	}
	return text, nil
}
