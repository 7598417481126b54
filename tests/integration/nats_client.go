// A program of Debian's Go client for NATS, unmodified, against whatever server its argument names: the broker, and
// nats-server as the oracle. Whatever is claimed here holds for both.
//
//	nats_client URL    holds the claims, and says each that it has held
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	patience = 20 * time.Second
	bytesMax = 1 << 20
)

var url string

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func claim(holds bool, what string) {
	if !holds {
		panic(what)
	}
}

func client(options ...nats.Option) *nats.Conn {
	nc, err := nats.Connect(url, options...)
	must(err)
	return nc
}

func subscribe(nc *nats.Conn, subject, group string) *nats.Subscription {
	var sub *nats.Subscription
	var err error
	if group != "" {
		sub, err = nc.QueueSubscribeSync(subject, group)
	} else {
		sub, err = nc.SubscribeSync(subject)
	}
	must(err)
	must(nc.Flush())
	return sub
}

// The next message is this one.
func gets(sub *nats.Subscription, subject, text string) *nats.Msg {
	m, err := sub.NextMsg(patience)
	must(err)
	claim(m.Subject == subject && string(m.Data) == text, "want "+subject+" "+text+", have "+m.Subject+" "+string(m.Data))
	return m
}

// How many there are by now.
func queued(sub *nats.Subscription) int {
	n, _, err := sub.Pending()
	must(err)
	return n
}

func eventually(holds func() bool, what string) {
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		claim(time.Now().Before(deadline), what)
	}
}

func whatIsPublishedComesInOrder() {
	a, b := client(), client()
	defer a.Close()
	defer b.Close()
	sub := subscribe(a, "go.order", "")
	for i := 0; i < 500; i++ {
		must(b.Publish("go.order", []byte(fmt.Sprint(i))))
	}
	for i := 0; i < 500; i++ {
		gets(sub, "go.order", fmt.Sprint(i))
	}
}

func patternsMatchLevels() {
	nc := client()
	defer nc.Close()
	one, all := subscribe(nc, "go.p.*", ""), subscribe(nc, "go.p.>", "")
	for _, subject := range []string{"go.p", "go.p.a", "go.p.a.b"} {
		must(nc.Publish(subject, []byte(subject)))
		must(nc.Flush()) // over several subjects the broker keeps no order but by this
	}
	gets(one, "go.p.a", "go.p.a")
	gets(all, "go.p.a", "go.p.a")
	gets(all, "go.p.a.b", "go.p.a.b")
	claim(queued(one) == 0 && queued(all) == 0, "no more came")
}

func eachMessageGoesToOneOfAGroup() {
	nc, other := client(), client()
	defer nc.Close()
	defer other.Close()
	a, b, plain := subscribe(nc, "go.g", "q"), subscribe(other, "go.*", "q"), subscribe(nc, "go.g", "")
	for i := 0; i < 200; i++ {
		must(nc.Publish("go.g", []byte("x")))
	}
	eventually(func() bool { return queued(a)+queued(b) == 200 && queued(plain) == 200 }, "200 came")
	claim(queued(a) > 0 && queued(b) > 0, "both got some")
}

func aRequestGetsItsAnswer() {
	nc, server, old := client(), client(), client(nats.UseOldRequestStyle())
	defer nc.Close()
	defer server.Close()
	defer old.Close()
	_, err := server.Subscribe("go.echo", func(m *nats.Msg) { must(m.Respond(m.Data)) })
	must(err)
	must(server.Flush())
	for _, who := range []*nats.Conn{nc, old} {
		for i := 0; i < 50; i++ {
			m, err := who.Request("go.echo", []byte("hello"), patience)
			must(err)
			claim(string(m.Data) == "hello", "the answer")
		}
		_, err := who.Request("go.nobody", nil, patience)
		claim(errors.Is(err, nats.ErrNoResponders), fmt.Sprint("nobody answers: ", err))
	}
}

func headersArrive() {
	nc := client()
	defer nc.Close()
	sub := subscribe(nc, "go.h", "")
	sent := nats.Header{"One": {"1"}, "two": {"a", "b"}}
	must(nc.PublishMsg(&nats.Msg{Subject: "go.h", Header: sent, Data: []byte("x")}))
	m := gets(sub, "go.h", "x")
	claim(reflect.DeepEqual(m.Header, sent), fmt.Sprint(m.Header))
}

func aMegabyteIsAMessageAndOneByteMoreIsNot() {
	nc := client()
	defer nc.Close()
	sub := subscribe(nc, "go.big", "")
	big := make([]byte, bytesMax+1)
	for i := range big {
		big[i] = byte(i * 7)
	}
	claim(nc.MaxPayload() == bytesMax, "max_payload")
	claim(errors.Is(nc.Publish("go.big", big), nats.ErrMaxPayload), "one more is refused")
	must(nc.Publish("go.big", big[:bytesMax]))
	m, err := sub.NextMsg(patience)
	must(err)
	claim(bytes.Equal(m.Data, big[:bytesMax]), "it comes back")
}

func aThousandSubscriptionsEachGetWhatIsTheirs() {
	nc := client()
	defer nc.Close()
	subs := make([]*nats.Subscription, 1000)
	for i := range subs {
		sub, err := nc.SubscribeSync(fmt.Sprint("go.many.", i))
		must(err)
		subs[i] = sub
	}
	for _, sub := range subs {
		must(nc.Publish(sub.Subject, []byte(sub.Subject)))
	}
	for _, sub := range subs {
		gets(sub, sub.Subject, sub.Subject)
	}
}

func aSubscriptionEndsAfterAsManyAsItWants() {
	nc := client()
	defer nc.Close()
	sub := subscribe(nc, "go.max", "")
	must(sub.AutoUnsubscribe(3))
	for i := 0; i < 10; i++ {
		must(nc.Publish("go.max", []byte("x")))
	}
	must(nc.Flush())
	for i := 0; i < 3; i++ {
		gets(sub, "go.max", "x")
	}
	_, err := sub.NextMsg(100 * time.Millisecond)
	claim(err != nil, "no more came")
}

func whoWantsNoEchoGetsNone() {
	deaf, other := client(nats.NoEcho()), client()
	defer deaf.Close()
	defer other.Close()
	sub := subscribe(deaf, "go.noecho", "")
	must(deaf.Publish("go.noecho", []byte("own")))
	must(deaf.Flush())
	must(other.Publish("go.noecho", []byte("other")))
	gets(sub, "go.noecho", "other")
}

func drainTakesWhatHasComeAndEnds() {
	nc, other := client(), client()
	defer other.Close()
	var taken atomic.Int32
	_, err := nc.Subscribe("go.drain", func(*nats.Msg) { taken.Add(1) })
	must(err)
	must(nc.Flush())
	for i := 0; i < 300; i++ {
		must(other.Publish("go.drain", []byte("x")))
	}
	must(other.Flush())
	must(nc.Drain())
	eventually(nc.IsClosed, "it is closed")
	claim(taken.Load() == 300, fmt.Sprint(taken.Load(), " of 300"))
}

func main() {
	url = os.Args[1]
	for _, c := range []struct {
		name string
		hold func()
	}{
		{"what is published comes in order", whatIsPublishedComesInOrder},
		{"patterns match levels", patternsMatchLevels},
		{"each message goes to one of a group", eachMessageGoesToOneOfAGroup},
		{"a request gets its answer", aRequestGetsItsAnswer},
		{"headers arrive", headersArrive},
		{"a megabyte is a message and one byte more is not", aMegabyteIsAMessageAndOneByteMoreIsNot},
		{"a thousand subscriptions each get what is theirs", aThousandSubscriptionsEachGetWhatIsTheirs},
		{"a subscription ends after as many as it wants", aSubscriptionEndsAfterAsManyAsItWants},
		{"who wants no echo gets none", whoWantsNoEchoGetsNone},
		{"drain takes what has come and ends", drainTakesWhatHasComeAndEnds},
	} {
		c.hold()
		fmt.Println("held", c.name)
	}
	fmt.Println("held all of them")
}
