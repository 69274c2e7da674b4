package sigv4

import "sync"

// maxSigningKeys bounds what is remembered. A key is used by one client for
// one region and service a day.
const maxSigningKeys = 256

// signingKeys remembers the keys that were derived from secrets: four HMACs
// that are the same for every request of a day. Only keys under which a
// request has passed are kept, so that nobody without a secret fills it.
type signingKeys struct {
	mu sync.RWMutex
	m  map[scope]signingKey
}

type scope struct{ accessKey, date, region, service string }

type signingKey struct {
	secret string // that it was derived from; another one makes it void
	key    sum
}

func (sig *Signature) scope() scope {
	return scope{sig.AccessKey, sig.date, sig.Region, sig.Service}
}

// of gives the key for a signature, and whether it had to be derived.
func (k *signingKeys) of(sig *Signature, secret string) (key sum, fresh bool) {
	k.mu.RLock()
	have, ok := k.m[sig.scope()]
	k.mu.RUnlock()
	if ok && have.secret == secret {
		return have.key, false
	}
	return derive(secret, sig), true
}

func (k *signingKeys) keep(sig *Signature, secret string, key sum) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.m == nil || len(k.m) >= maxSigningKeys {
		k.m = make(map[scope]signingKey) // those in use are back with their next request
	}
	k.m[sig.scope()] = signingKey{secret, key}
}

// derive makes the signing key of a secret for a day, a region and a service.
func derive(secret string, sig *Signature) sum {
	key := mac([]byte("AWS4"+secret), []byte(sig.date))
	for _, part := range [...]string{sig.Region, sig.Service, terminator} {
		key = mac(key[:], []byte(part))
	}
	return key
}
