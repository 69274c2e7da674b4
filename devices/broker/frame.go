package broker

// Packet types that only pass through.
const (
	typeSuback   = 9
	typeUnsuback = 11
	typePingreq  = 12
	typePingresp = 13
	typeAuth     = 15
)

// checkFrame judges what can be seen of a packet from its type, its flags and
// its length (2.1.2, 2.1.3), of a client that was let in. The server behind us
// ends the connection over some of it without telling an MQTT 5 client why,
// and waits for ever over an AUTH. PUBLISH and PUBREL are judged where they are read.
func checkFrame(first byte, body []byte) *faultError {
	var flags byte
	switch first >> 4 {
	case 0:
		return malformed("packet type 0")
	case typeConnect: // [MQTT-3.1.0-2]
		return violation("a second CONNECT")
	case typeConnack, typeSuback, typeUnsuback, typePingresp:
		return violation("a packet that only a server sends")
	case typeAuth: // 4.12: the client named no method in CONNECT, or it was not let in
		return violation("AUTH without an authentication method")
	case typePublish, typePubrel:
		return nil
	case typeSubscribe, typeUnsub: // [MQTT-3.8.1-1], [MQTT-3.10.1-1]
		flags = 2
	}
	if first&0x0f != flags { // [MQTT-2.1.3-1]
		return malformed("flags that are reserved")
	}
	switch first >> 4 {
	case typePingreq:
		if len(body) > 0 {
			return malformed("PINGREQ with a body")
		}
	case typePuback, typePubrec, typePubcomp:
		if len(body) < 2 {
			return malformed("an acknowledgement without its packet identifier")
		}
	}
	return nil
}
