package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	tableName = "bight"
	chainName = "steer"

	// tableOwned makes a table belong to the netlink socket that made it: nobody
	// else may change it, and it goes when the socket does (Linux 5.12).
	tableOwned = 0x2

	answerTime = 5 * time.Second // for the kernel to answer, which takes it far less than 10 ms
)

// ErrHeld says that a door is in place already, of a process that lives.
var ErrHeld = errors.New("another living process holds the steering rules of this pod")

// table is our table of rules in a namespace. It is not safe for concurrent use.
type table struct {
	conn  *nftables.Conn
	raw   *netlink.Conn // of conn
	inet  *nftables.Table
	owned bool
}

// openTable makes the table, empty, in place of one that a process has left
// which does not live any more. It has these flags, where the kernel knows them.
func openTable(n *Netns, flags uint32) (*table, error) {
	t := &table{inet: &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}}
	var err error
	t.conn, t.raw, err = dialNetfilter(n)
	if err != nil {
		return nil, err
	}
	if err := t.create(flags); err != nil {
		// Nothing more is asked on this connection, where answers may be unread.
		err = errors.Join(err, t.conn.CloseLasting())
		if errors.Is(err, unix.EPERM) && held(n) {
			return nil, ErrHeld
		}
		return nil, err
	}
	return t, nil
}

// dialNetfilter opens a connection to the netfilter of the namespace.
func dialNetfilter(n *Netns) (conn *nftables.Conn, raw *netlink.Conn, err error) {
	options := []nftables.ConnOption{nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error { raw = c; return nil })}
	if !n.own {
		options = append(options, nftables.WithNetNSFd(int(n.file.Fd())))
	}
	conn, err = nftables.New(options...)
	if err != nil {
		return nil, nil, explain(err)
	}
	return conn, raw, nil
}

// create replaces the table by an empty one in one step.
func (t *table) create(flags uint32) error {
	err := t.replace(flags)
	switch {
	case err == nil:
		t.owned = flags&tableOwned != 0
		return nil
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP):
		err = t.replace(0)
	}
	return explain(err)
}

// replace sends what the library can't say: a new table with flags. A table
// must exist to be deleted, so it is added first, with the flags that it has.
func (t *table) replace(flags uint32) error {
	message := func(kind, also int, flags uint32) netlink.Message {
		attributes, err := netlink.MarshalAttributes([]netlink.Attribute{
			{Type: unix.NFTA_TABLE_NAME, Data: []byte(tableName + "\x00")},
			{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, flags)},
		})
		if err != nil {
			panic(err) // the attributes are far from too long
		}
		return netlink.Message{
			Header: netlink.Header{
				Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
				Flags: netlink.Request | netlink.Acknowledge | netlink.HeaderFlags(also),
			},
			Data: append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attributes...),
		}
	}
	edge := func(kind int) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request},
			Data:   []byte{0, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}
	}
	steps := []netlink.Message{message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, flags)}
	if t.exists() {
		steps = append([]netlink.Message{message(unix.NFT_MSG_DELTABLE, 0, 0)}, steps...)
	}
	batch := append([]netlink.Message{edge(unix.NFNL_MSG_BATCH_BEGIN)}, steps...)
	batch = append(batch, edge(unix.NFNL_MSG_BATCH_END))
	if err := t.hurry(); err != nil {
		return err
	}
	if _, err := t.raw.SendMessages(batch); err != nil {
		return err
	}
	var failed error
	for range steps {
		if _, err := t.raw.Receive(); err != nil {
			failed = errors.Join(failed, err)
			if errors.Is(err, unix.EPERM) || errors.Is(err, os.ErrDeadlineExceeded) {
				break // there is one answer to all of the batch
			}
		}
	}
	return failed
}

func (t *table) exists() bool {
	if t.hurry() != nil {
		return false
	}
	found, err := t.conn.ListTableOfFamily(tableName, nftables.TableFamilyINet)
	return err == nil && found != nil
}

// hurry bounds the next exchange with the kernel.
func (t *table) hurry() error { return t.raw.SetDeadline(time.Now().Add(answerTime)) }

// set replaces all rules by these, in one step. With none the chain goes too,
// so that nothing is in the packets' way.
func (t *table) set(rules [][]expr.Any) error {
	err := t.flush(rules)
	if errors.Is(err, unix.ENOENT) && !t.exists() {
		// Somebody has removed the table, which takes an old kernel.
		if err := t.create(0); err != nil {
			return err
		}
		err = t.flush(rules)
	}
	return explain(err)
}

func (t *table) flush(rules [][]expr.Any) error {
	policy := nftables.ChainPolicyAccept
	chain := &nftables.Chain{
		Name: chainName, Table: t.inet, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(priority), Policy: &policy,
	}
	t.conn.AddChain(chain) // adding what exists is no error
	t.conn.FlushChain(chain)
	for _, r := range rules {
		t.conn.AddRule(&nftables.Rule{Table: t.inet, Chain: chain, Exprs: r})
	}
	if len(rules) == 0 {
		t.conn.DelChain(chain)
	}
	if err := t.hurry(); err != nil {
		return err
	}
	return t.conn.Flush()
}

// priority is after the address translation that a service mesh does in a pod
// (-100): a connection that its sidecar takes has another port by then and is
// left alone. Before it, TPROXY would give it to us with the sidecar's port.
const priority = -90

// close removes the table, by letting go of it if it is owned.
func (t *table) close() error {
	var err error
	if !t.owned && t.exists() {
		t.conn.DelTable(t.inet)
		err = explain(t.conn.Flush())
	}
	return errors.Join(err, t.conn.CloseLasting())
}

// explain says what a node's kernel lacks, when it lacks something.
func explain(err error) error {
	const todo = "; load the module on the node, or steer at the Kubernetes Service instead"
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("the node's kernel has no nft_tproxy module (CONFIG_NFT_TPROXY): %w%s", err, todo)
	case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("the node's kernel has no nf_tables module with the family inet (CONFIG_NF_TABLES_INET): %w%s", err, todo)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("change the rules of the pod's network: %w; the node agent needs the capability NET_ADMIN", err)
	}
	return fmt.Errorf("change the rules of the pod's network: %w", err)
}

// Leftover is a table of ours in a network namespace.
type Leftover struct {
	Family string // inet
	Table  string // bight
	Rules  int
	// Held says that a living process holds it, so that it is not left over yet.
	Held bool
}

// Leftovers returns what there is of ours in a network namespace. There are
// tables of rules only: steering makes no routes, marks or addresses.
func Leftovers(ctx context.Context, n *Netns) ([]Leftover, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	conn, _, err := dialNetfilter(n)
	if err != nil {
		return nil, fmt.Errorf("list what steering left: %w", err)
	}
	defer conn.CloseLasting()
	found, err := leftovers(conn)
	if err != nil {
		return nil, fmt.Errorf("list what steering left: %w", explain(err))
	}
	return found, nil
}

// held tells whether a living process holds a table of ours.
func held(n *Netns) bool {
	found, err := Leftovers(context.Background(), n)
	return err == nil && slices.ContainsFunc(found, func(l Leftover) bool { return l.Held })
}

func leftovers(conn *nftables.Conn) ([]Leftover, error) {
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, err
	}
	var found []Leftover
	for _, t := range tables {
		if t.Name != tableName {
			continue
		}
		l := Leftover{Family: "inet", Table: t.Name, Held: flagsOf(t)&tableOwned != 0}
		chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
		if err != nil {
			return nil, err
		}
		for _, c := range chains {
			if c.Table.Name != tableName {
				continue
			}
			rules, err := conn.GetRules(t, c)
			if err != nil {
				return nil, err
			}
			l.Rules += len(rules)
		}
		found = append(found, l)
	}
	return found, nil
}

// flagsOf returns a listed table's flags. The library takes the kernel's number
// for one in this machine's byte order.
func flagsOf(t *nftables.Table) uint32 {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, t.Flags))
}

// Clean removes what Leftovers returns, or fails with ErrHeld if a living
// process holds it: close its door instead.
func Clean(ctx context.Context, n *Netns) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	conn, _, err := dialNetfilter(n)
	if err != nil {
		return fmt.Errorf("remove what steering left: %w", err)
	}
	defer conn.CloseLasting()
	found, err := leftovers(conn)
	if err != nil {
		return fmt.Errorf("remove what steering left: %w", explain(err))
	}
	for _, l := range found {
		if l.Held {
			return fmt.Errorf("remove what steering left: %w", ErrHeld)
		}
		conn.DelTable(&nftables.Table{Name: l.Table, Family: nftables.TableFamilyINet})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove what steering left: %w", explain(err))
	}
	return nil
}
