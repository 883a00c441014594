// Command wire is the service at the far end of the bridge's benchmarks. Beside a
// page over HTTP it has three TCP ports: one echoes, one swallows and one sends as
// many bytes as it is told, again and again on one connection. Nothing is shared
// between connections. The benchmark copies this file into an app of its own.
package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
)

func main() {
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	for at, serve := range map[string]func(net.Conn) error{":7001": echo, ":7002": swallow, ":7003": send} {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			log.Fatal(err)
		}
		go func() { log.Fatal(accept(ln, serve)) }()
	}
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "pod", host) })
	log.Fatal(http.ListenAndServe(":8080", nil))
}

func accept(ln net.Listener, serve func(net.Conn) error) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = serve(conn) // the client has gone, which is how it ends
		}()
	}
}

// echo sends back what comes.
func echo(conn net.Conn) error {
	b := make([]byte, 32<<10)
	for {
		n, err := conn.Read(b)
		if err != nil {
			return err
		}
		if _, err := conn.Write(b[:n]); err != nil {
			return err
		}
	}
}

// swallow reads a number and as many bytes, and confirms them with one byte.
func swallow(conn net.Conn) error {
	b := make([]byte, 256<<10)
	for {
		left, err := number(conn)
		for left > 0 && err == nil {
			var n int
			n, err = conn.Read(b[:min(left, uint64(len(b)))])
			left -= uint64(n)
		}
		if err != nil {
			return err
		}
		if _, err := conn.Write(b[:1]); err != nil {
			return err
		}
	}
}

// send reads a number and writes as many bytes.
func send(conn net.Conn) error {
	b := make([]byte, 256<<10)
	for {
		left, err := number(conn)
		for left > 0 && err == nil {
			var n int
			n, err = conn.Write(b[:min(left, uint64(len(b)))])
			left -= uint64(n)
		}
		if err != nil {
			return err
		}
	}
}

func number(conn net.Conn) (uint64, error) {
	var b [8]byte
	_, err := io.ReadFull(conn, b[:])
	return binary.BigEndian.Uint64(b[:]), err
}
