package broker

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"

	"forebay/gateway/conf"
)

// An account is what a client may do. The nil account may do everything: no
// users are configured, and only this machine reaches the door.
type account struct {
	name      string
	password  conf.Secret
	publish   []conf.Filter
	subscribe []conf.Filter
}

// user is the account's name, "" for the nil account.
func (a *account) user() string {
	if a == nil {
		return ""
	}
	return a.name
}

func (a *account) mayPublish(topic string) bool {
	return a == nil || anyCovers(a.publish, topic)
}

// maySubscribe takes a filter, or a topic that is about to be delivered.
func (a *account) maySubscribe(filter string) bool {
	return a == nil || anyCovers(a.subscribe, unshare(filter))
}

func accounts(users []User) (map[string]*account, error) {
	if len(users) == 0 {
		return nil, nil
	}
	m := make(map[string]*account, len(users))
	for _, u := range users {
		a := &account{name: u.Name, password: u.Password}
		var err error
		if a.publish, err = conf.ParseFilters(u.WithDefaults().Publish); err != nil {
			return nil, fmt.Errorf("publish: of user %q: %w", u.Name, err)
		}
		if a.subscribe, err = conf.ParseFilters(u.Subscribe); err != nil {
			return nil, fmt.Errorf("subscribe: of user %q: %w", u.Name, err)
		}
		m[u.Name] = a
	}
	return m, nil
}

// login finds the account of a name and password. The time it takes tells
// nothing of the password; the secret is read anew each time.
func (b *Broker) login(name, password string) (*account, bool, error) {
	if b.accounts == nil {
		return nil, true, nil
	}
	a := b.accounts[name]
	want := ""
	if a != nil {
		var err error
		if want, err = a.password.Reveal(); err != nil {
			return nil, false, fmt.Errorf("read the password of user %q: %w", name, err)
		}
	}
	w, g := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(password))
	same := subtle.ConstantTimeCompare(w[:], g[:]) == 1
	if a == nil || want == "" || !same {
		return nil, false, nil
	}
	return a, true, nil
}
