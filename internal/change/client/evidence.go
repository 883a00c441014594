package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/release/spec"
)

// Evidence returns what is kept of a release, or [evidence.ErrNone].
func (c *Client) Evidence(ctx context.Context, namespace, release string) (*evidence.Bundle, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+spec.BundlePath+"/"+namespace+"/"+release, nil)
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
	return evidence.Read(text)
}
