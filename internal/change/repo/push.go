package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// acceptHooks answers what hooks ask until the listener is closed.
func (s *Server) acceptHooks() {
	for {
		conn, err := s.hooks.Accept()
		if err != nil {
			return
		}
		s.running.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(s.life, func() { conn.SetReadDeadline(time.Now()) })()
			if err := s.answerHook(conn); err != nil {
				s.Log.Info("git hook not answered", "error", err)
			}
		})
	}
}

// answerHook answers one question.
func (s *Server) answerHook(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(pushTimeout + s.Stall)); err != nil {
		return err
	}
	var q question
	if err := json.NewDecoder(io.LimitReader(conn, 16*maxCommands)).Decode(&q); err != nil {
		return fmt.Errorf("read question: %w", err)
	}
	s.mu.Lock()
	now := s.receiving[q.Token]
	s.mu.Unlock()
	var a answer
	switch {
	case now == nil:
		a.Refused = "this push is not known to the server: push again"
	case q.Hook == preReceive:
		a = review(q)
	case q.Hook == procReceive:
		// Not the request's context: what is begun here is brought to an end, also when the client goes.
		ctx, cancel := context.WithTimeout(s.life, pushTimeout)
		a = s.take(ctx, now, q)
		cancel()
	default:
		a.Refused = fmt.Sprintf("hook %q is not known to the server", q.Hook)
	}
	return json.NewEncoder(conn).Encode(a)
}

// review tells whether users may push to the refs at all.
func review(q question) answer {
	var a answer
	for _, u := range q.Updates {
		if err := checkPushed(u.Ref); err != nil {
			a.Lines = append(a.Lines, fmt.Sprintf("%s: %v", u.Ref, err))
			a.Refused = "nothing of this push was taken"
		}
	}
	return a
}

// take does what a push wants, ref by ref.
func (s *Server) take(ctx context.Context, now *receiving, q question) answer {
	leave, err := s.turn(ctx, now)
	if err != nil {
		return answer{Refused: "other pushes to this app take too long: push again"}
	}
	defer leave()
	var a answer
	for _, u := range q.Updates {
		result, lines := s.takeRef(ctx, now, u, q.Options)
		a.Results = append(a.Results, result)
		a.Lines = append(a.Lines, lines...)
	}
	return a
}

// turn waits until no other push to the repository moves refs.
func (s *Server) turn(ctx context.Context, now *receiving) (leave func(), err error) {
	key := now.namespace + "/" + now.app
	s.mu.Lock()
	turn := s.turns[key]
	if turn == nil {
		turn = make(chan struct{}, 1)
		s.turns[key] = turn
	}
	s.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// takeRef does what a push wants of one ref: the commit is kept, the ref moved if it is not the App's
// branch, and the one who decides is told. A refusal undoes all of it.
func (s *Server) takeRef(ctx context.Context, now *receiving, u update, options []string) (outcome, []string) {
	refused := func(err error) (outcome, []string) {
		words := err.Error()
		line := u.Ref + ": " + words
		if _, moved := errors.AsType[*MovedError](err); moved {
			words, line = "moved meanwhile: fetch first", u.Ref+" was moved by somebody else meanwhile: fetch, and push again"
		}
		return outcome{Ref: u.Ref, Refused: words}, strings.Split(line, "\n")
	}
	p, err := s.describe(ctx, now, u, options)
	if err != nil {
		return refused(err)
	}
	undo, err := s.move(ctx, now.repository, p)
	if err != nil {
		return refused(err)
	}
	s.mu.Lock()
	now.moved = true
	s.mu.Unlock()
	var lines []string
	if s.OnPush != nil {
		if lines, err = s.OnPush(ctx, p); err != nil {
			undone, cancel := context.WithTimeout(context.WithoutCancel(ctx), pushTimeout)
			defer cancel()
			if undoErr := undo(undone); undoErr != nil {
				s.Log.Error("a refused push could not be undone", "namespace", p.Namespace, "app", p.App, "ref", p.Ref, "error", undoErr)
			}
			return refused(err)
		}
	}
	result := outcome{Ref: p.Ref, Forced: p.Forced}
	if p.Change {
		result.Kept = p.Kept
	}
	return result, lines
}

// describe finds out what an update is.
func (s *Server) describe(ctx context.Context, now *receiving, u update, options []string) (Push, error) {
	p := Push{Namespace: now.namespace, App: now.app, User: now.user, Ref: u.Ref, Old: u.Old, New: u.New, Options: options}
	if err := checkPushed(u.Ref); err != nil {
		return p, err
	}
	branch, err := now.repository.Branch(ctx)
	if err != nil {
		return p, err
	}
	p.Change = u.Ref == "refs/heads/"+branch
	if p.Change && u.New == "" {
		return p, fmt.Errorf("it is the app's branch, which can't be deleted: name another one in the App first")
	}
	if strings.HasPrefix(u.Ref, "refs/heads/") && u.New != "" {
		commit, err := now.repository.Resolve(ctx, u.New)
		if err != nil || commit != u.New {
			return p, fmt.Errorf("%.12s is no commit, and a branch names commits only", u.New)
		}
		p.Kept = ChangeRef(u.New)
	}
	if u.Old == "" || u.New == "" {
		return p, nil
	}
	if strings.HasPrefix(u.Ref, "refs/tags/") {
		p.Forced = true // a tag that moves is always a surprise
		return p, nil
	}
	descends, err := now.repository.IsAncestor(ctx, u.Old, u.New)
	p.Forced = !descends
	return p, err
}

// move makes and moves the refs of a push and returns what takes it back.
func (s *Server) move(ctx context.Context, r *Repository, p Push) (undo func(context.Context) error, err error) {
	var undos []func(context.Context) error
	undo = func(ctx context.Context) error {
		var failed error
		for i := len(undos) - 1; i >= 0; i-- {
			failed = errors.Join(failed, undos[i](ctx))
		}
		return failed
	}
	if p.Kept != "" {
		err := r.UpdateRef(ctx, p.Kept, p.New, "")
		moved, exists := errors.AsType[*MovedError](err)
		switch {
		case err == nil:
			undos = append(undos, func(ctx context.Context) error { return r.UpdateRef(ctx, p.Kept, "", p.New) })
		case exists && moved.Have == p.New: // kept since an earlier push
		default:
			return nil, err
		}
	}
	if p.Change {
		return undo, nil
	}
	if err := r.UpdateRef(ctx, p.Ref, p.New, p.Old); err != nil {
		return nil, errors.Join(err, undo(ctx))
	}
	undos = append(undos, func(ctx context.Context) error { return r.UpdateRef(ctx, p.Ref, p.Old, p.New) })
	return undo, nil
}

// afterPush packs the repository if many pushes have left many files, while nobody waits for it.
func (s *Server) afterPush(now *receiving) {
	key := now.namespace + "/" + now.app
	s.mu.Lock()
	busy := s.tidying[key]
	start := now.service == pushing && now.moved && !busy && !s.closed
	if start {
		s.tidying[key] = true
		s.running.Add(1)
	}
	s.mu.Unlock()
	if !start {
		return
	}
	go func() {
		defer s.running.Done()
		defer func() {
			s.mu.Lock()
			delete(s.tidying, key)
			s.mu.Unlock()
		}()
		if err := now.repository.Maintain(s.life); err != nil && s.life.Err() == nil {
			s.Log.Warn("repository not packed", "namespace", now.namespace, "app", now.app, "error", err)
		}
	}()
}
