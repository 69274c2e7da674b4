// A Sparkplug host made of sparkplug-client and sparkplug-payload, which know
// nothing of us: it says that it is online, prints what it decodes, one line of
// JSON a message, and asks for a rebirth after the first data.
const [url, group, node] = process.argv.slice(2);
const client = require('sparkplug-client').newClient({
  serverUrl: url, username: '', password: '', groupId: 'hosts', edgeNode: 'scada', clientId: 'scada', keepalive: 5,
});
const codec = require('sparkplug-payload').get('spBv1.0');
let asked = false;
client.on('connect', () => {
  client.subscribeTopic(`spBv1.0/${group}/#`, { qos: 1 }, () => {
    client.client.publish('spBv1.0/STATE/scada', JSON.stringify({ online: true, timestamp: Date.now() }), { qos: 1, retain: true });
  });
});
client.on('message', (topic, payload) => {
  if (topic.split('/')[2] === 'NCMD') return;
  const metrics = (payload.metrics || []).map((m) => ({
    name: m.name, type: m.type, value: m.value === null ? null : String(m.value), historical: !!m.isHistorical, time: String(m.timestamp),
  }));
  console.log(JSON.stringify({ topic, seq: payload.seq === undefined ? null : String(payload.seq), metrics }));
  if (!asked && topic.split('/')[2] === 'DDATA') {
    asked = true;
    const ncmd = { timestamp: Date.now(), metrics: [{ name: 'Node Control/Rebirth', type: 'Boolean', value: true }] };
    client.client.publish(`spBv1.0/${group}/NCMD/${node}`, Buffer.from(codec.encodePayload(ncmd)), { qos: 0 });
  }
});
