package cliio

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

const (
	progressAfter = 500 * time.Millisecond // what is quicker shows nothing
	progressEvery = 100 * time.Millisecond
)

// Progress is one line on a terminal's standard error that says what is going on. A nil
// Progress, which is what a pipe gets, takes every call and shows nothing.
type Progress struct {
	io   *IO
	quit chan struct{}
	done sync.WaitGroup

	// Under io.errMu.
	step        string
	have, total int64
	began       time.Time
	shown       bool
	tick        int
}

// Progress begins to show what is being done, once it takes longer than half a second.
// The caller ends it with Stop.
func (s *IO) Progress(step string) *Progress {
	if !s.ErrTTY || s.JSON {
		return nil
	}
	p := &Progress{io: s, quit: make(chan struct{}), step: step, began: time.Now()}
	s.errMu.Lock()
	s.line = p
	s.errMu.Unlock()
	p.done.Add(1)
	go p.run()
	return p
}

// Update says how far it is; a total of 0 is unknown.
func (p *Progress) Update(step string, have, total int64) {
	if p == nil {
		return
	}
	p.io.errMu.Lock()
	defer p.io.errMu.Unlock()
	p.step, p.have, p.total = step, have, total
}

// Stop erases the line. It may be called twice.
func (p *Progress) Stop() {
	if p == nil {
		return
	}
	p.io.errMu.Lock()
	if p.io.line == p {
		p.io.line = nil
		p.erase()
		close(p.quit)
	}
	p.io.errMu.Unlock()
	p.done.Wait()
}

func (p *Progress) run() {
	defer p.done.Done()
	wait := time.NewTimer(progressAfter)
	defer wait.Stop()
	for {
		select {
		case <-p.quit:
			return
		case <-wait.C:
			p.draw()
			wait.Reset(progressEvery)
		}
	}
}

func (p *Progress) draw() {
	p.io.errMu.Lock()
	defer p.io.errMu.Unlock()
	if p.io.line != p {
		return
	}
	p.tick++
	_, _ = fmt.Fprintf(p.io.Err, "\r\x1b[K%s", fit(p.text(), p.io.Columns()-1))
	p.shown = true
}

func (p *Progress) text() string {
	const bar = 20
	text := string([]rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")[p.tick%10]) + " " + Clean(p.step)
	switch {
	case p.total > 0:
		done := min(p.have, p.total)
		full := int(done * bar / p.total)
		text += fmt.Sprintf("  [%s%s] %s of %s", strings.Repeat("=", full), strings.Repeat(" ", bar-full),
			HumanSize(p.have), HumanSize(p.total))
	case p.have > 0:
		text += "  " + HumanSize(p.have)
	}
	return text + fmt.Sprintf("  %.0fs", time.Since(p.began).Seconds())
}

// erase takes the line away, until it is drawn again. The caller holds io.errMu.
func (p *Progress) erase() {
	if p != nil && p.shown {
		_, _ = fmt.Fprint(p.io.Err, "\r\x1b[K")
		p.shown = false
	}
}
