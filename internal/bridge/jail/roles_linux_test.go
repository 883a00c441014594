package jail

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// play is what the test binary does as the command inside of a jail, or as a
// process that makes one. It returns the exit code.
func play(role string, args []string) int {
	err := roles()[role](args)
	if err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		return 1
	}
	return 0
}

func roles() map[string]func([]string) error {
	return map[string]func([]string) error{
		"echo":   roleEcho,
		"udp":    roleUDP,
		"lookup": roleLookup,
		"flows":  roleFlows,
		"serve":  roleServe,
		"own":    roleOwn,
		"rtt":    roleRTT,
		"bulk":   roleBulk,
		"watch":  roleWatch,
		"nested": roleNested,
		"status": roleStatus,
		"names":  roleNames,
		"trap":   roleTrap,
		"ping":   rolePing,
	}
}

// roleEcho sends a line over TCP, ends its direction and prints what comes back.
func roleEcho(args []string) error {
	conn, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, args[1]); err != nil {
		return err
	}
	_ = conn.(*net.TCPConn).CloseWrite() // it may have been reset; reading tells
	_, err = io.Copy(os.Stdout, conn)
	return err
}

// roleUDP sends datagrams from one unconnected socket to all given addresses and
// prints what comes back from where.
func roleUDP(args []string) error {
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	for round := range 3 {
		for _, to := range args {
			if _, err := conn.WriteToUDPAddrPort(fmt.Appendf(nil, "%d", round), netip.MustParseAddrPort(to)); err != nil {
				return err
			}
			buf := make([]byte, 100)
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return err
			}
			fmt.Printf("%s %s\n", netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), buf[:n])
		}
	}
	return nil
}

func roleLookup(args []string) error {
	addrs, err := net.DefaultResolver.LookupHost(context.Background(), args[0])
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		fmt.Println("not found")
		return nil
	}
	slices.Sort(addrs)
	fmt.Println(strings.Join(addrs, " "))
	return err
}

// roleFlows opens n connections at once and echoes through all of them.
func roleFlows(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	problems := make(chan error, n)
	open := make(chan struct{})
	var opened sync.WaitGroup
	opened.Add(n)
	for i := range n {
		group.Go(func() {
			conn, err := net.Dial("tcp", args[0])
			opened.Done()
			if err != nil {
				problems <- err
				return
			}
			defer conn.Close()
			<-open
			text := strings.Repeat(strconv.Itoa(i), 2000)
			go func() { _, _ = io.WriteString(conn, text); _ = conn.(*net.TCPConn).CloseWrite() }()
			b, err := io.ReadAll(conn)
			if err != nil || string(b) != text {
				problems <- fmt.Errorf("flow %d: %d bytes of %d, %v", i, len(b), len(text), err)
			}
		})
	}
	opened.Wait()
	close(open)
	group.Wait()
	close(problems)
	return <-problems
}

// roleOwn echoes through an address before, while and after it listens there itself.
func roleOwn(args []string) error {
	ask := func() string {
		conn, err := net.Dial("tcp", args[0])
		if err != nil {
			return "refused"
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "x")
		b := make([]byte, 8)
		n, _ := conn.Read(b)
		return string(b[:n])
	}
	fmt.Println(ask())
	open, err := net.Dial("tcp", args[0]) // a connection that stays where it is
	if err != nil {
		return err
	}
	defer open.Close()
	for _, at := range args[1:] {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			fmt.Println("in use")
			continue
		}
		served := make(chan struct{})
		go func() {
			defer close(served)
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "own")
			_ = conn.Close()
		}()
		fmt.Println(ask())
		_ = ln.Close()
		<-served
		fmt.Println(ask())
	}
	_, _ = io.WriteString(open, "still")
	b := make([]byte, 5)
	n, _ := io.ReadFull(open, b)
	fmt.Println(string(b[:n]))
	return nil
}

// roleServe echoes on the given addresses until it is ended.
func roleServe(args []string) error {
	for _, at := range args {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
			}
		}()
	}
	fmt.Println("ready")
	select {}
}

// roleRTT prints the median of round trips of 64 bytes.
func roleRTT(args []string) error {
	conn, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	buf := make([]byte, 64)
	var times []time.Duration
	for range 5000 {
		began := time.Now()
		if _, err := conn.Write(buf); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, buf); err != nil {
			return err
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	fmt.Println(times[len(times)/2].Nanoseconds())
	return nil
}

// roleBulk sends bytes and prints the rate in bytes per second.
func roleBulk(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	conn, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	buf := make([]byte, 256<<10)
	began := time.Now()
	for sent := 0; sent < n; sent += len(buf) {
		if _, err := conn.Write(buf); err != nil {
			return err
		}
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	if _, err := io.ReadAll(conn); err != nil {
		return err
	}
	fmt.Println(int(float64(n) / time.Since(began).Seconds()))
	return nil
}

// roleWatch reads two files for ever, and says so when they do not agree; it
// prints each new content.
func roleWatch(args []string) error {
	last := ""
	for {
		data, err := os.Readlink(args[0] + "/..data")
		if err != nil {
			return err
		}
		var read []string
		for _, name := range []string{"a", "b"} {
			b, err := os.ReadFile(args[0] + "/" + data + "/" + name)
			if errors.Is(err, os.ErrNotExist) {
				break // replaced in between
			}
			if err != nil {
				return err
			}
			read = append(read, string(b))
		}
		if len(read) < 2 {
			continue
		}
		if read[0] != read[1] {
			return fmt.Errorf("%q and %q", read[0], read[1])
		}
		if read[0] != last {
			last = read[0]
			fmt.Println(last)
		}
	}
}

// roleNested makes a jail of its own: the outer process of tests that end it, or
// that run as another user.
func roleNested(args []string) error {
	dial := func(context.Context, string, netip.AddrPort) (net.Conn, error) { return nil, errNobody }
	code, err := toEnd(context.Background(), Config{
		Command: args, Env: slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "JAIL_TEST_ROLE=") }),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Hostname: "pod-1",
		Mounts:   []Mount{{Path: "/jail-test-absent/config", Files: []File{{Name: "key", Mode: 0o400, Content: []byte("value")}}}},
		Dial:     dial,
		DialUDP:  func(ctx context.Context, to netip.AddrPort) (net.Conn, error) { return dial(ctx, "udp", to) },
		Resolve:  func(context.Context, []byte) ([]byte, error) { return nil, errNobody },
	})
	if err != nil {
		return err
	}
	fmt.Println("code", code)
	return nil
}

// roleStatus prints who the process is.
func roleStatus([]string) error {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "Cap") || strings.HasPrefix(line, "Sig") {
			fmt.Print(line)
		}
	}
	fmt.Printf("Uid %d Gid %d\n", os.Getuid(), os.Getgid())
	return nil
}

// roleNames asks as many questions as it can for a while and prints how many were
// answered.
func roleNames(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	conn, err := net.Dial("udp", nameserver.String()+":53")
	if err != nil {
		return err
	}
	defer conn.Close()
	began, answered, failed := time.Now(), 0, 0
	buf := make([]byte, 1500)
	for i := range n {
		if _, err := conn.Write(testQuery(uint16(i), fmt.Sprintf("n%d.example", i%2000), 1)); err != nil {
			return err
		}
		for wait := i%64 == 63; ; {
			_ = conn.SetReadDeadline(time.Now().Add(map[bool]time.Duration{true: 50 * time.Millisecond, false: 0}[wait]))
			size, err := conn.Read(buf)
			if err != nil {
				break
			}
			answered++
			if size > 3 && buf[3]&0xf == rcodeFailed {
				failed++
			}
			wait = answered < i+1
		}
	}
	fmt.Println(answered, failed, time.Since(began).Milliseconds())
	return nil
}

// roleTrap waits for a signal and exits.
func roleTrap([]string) error {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGINT, unix.SIGTERM)
	fmt.Println("ready")
	fmt.Println(<-c)
	return nil
}

// rolePing sends an echo request and says how it was taken.
func rolePing(args []string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	timeout := unix.Timeval{Usec: 300_000}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return err
	}
	if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(netip.MustParseAddr(args[0]), 0))); err != nil {
		return err
	}
	if _, err := unix.Write(fd, []byte{8, 0, 0, 0, 0, 1, 0, 1}); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if _, err := unix.Read(fd, make([]byte, 100)); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	fmt.Println("answered")
	return nil
}
