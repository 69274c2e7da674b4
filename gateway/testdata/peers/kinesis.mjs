// Drives the AWS SDK for JavaScript v3: a line of JSON in per call, a line of
// JSON out per answer. Blobs are base64, times RFC 3339.
//
//   node kinesis.mjs ENDPOINT h1|h2     (FOREBAY_NODE_MODULES says where the SDK is)
//
// In: {service, op, in, records?, secret?}. Out: {out}, {code, typed, message} or
// {absent: true} where the SDK has no such operation. A subscription says
// {ready: true} first and ends after so many records.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const require = createRequire(process.env.FOREBAY_NODE_MODULES + '/');
const { NodeHttpHandler, NodeHttp2Handler } = require('@smithy/node-http-handler');
const sdks = {
  kinesis: [require('@aws-sdk/client-kinesis'), 'KinesisClient'],
  firehose: [require('@aws-sdk/client-firehose'), 'FirehoseClient'],
};
const [endpoint, protocol] = process.argv.slice(2);
const clients = new Map();

function client(service, secret) {
  const id = service + '/' + secret;
  if (!clients.has(id)) {
    const [sdk, name] = sdks[service];
    clients.set(id, new sdk[name]({
      endpoint, region: 'us-east-1', maxAttempts: 1,
      credentials: { accessKeyId: process.env.AWS_ACCESS_KEY_ID, secretAccessKey: secret },
      requestHandler: protocol === 'h1' ? new NodeHttpHandler() : new NodeHttp2Handler(),
    }));
  }
  return clients.get(id);
}

// toSDK makes buffers of blobs and dates of times; toJSON undoes it.
function toSDK(v, key) {
  if (Array.isArray(v)) return v.map((x) => toSDK(x));
  if (v && typeof v === 'object') return Object.fromEntries(Object.entries(v).map(([k, x]) => [k, toSDK(x, k)]));
  if (typeof v === 'string' && key === 'Data') return Buffer.from(v, 'base64');
  if (typeof v === 'string' && key && key.endsWith('Timestamp')) return new Date(v);
  return v;
}
function toJSON(v) {
  if (v instanceof Uint8Array) return Buffer.from(v).toString('base64');
  if (v instanceof Date) return v.toISOString();
  if (Array.isArray(v)) return v.map(toJSON);
  if (v && typeof v === 'object') return Object.fromEntries(Object.entries(v).filter(([k]) => k !== '$metadata').map(([k, x]) => [k, toJSON(x)]));
  return v;
}
const say = (v) => process.stdout.write(JSON.stringify(v) + '\n');

async function subscription(out, records) {
  say({ ready: true });
  const events = [];
  let n = 0;
  for await (const e of out.EventStream) {
    if (!e.SubscribeToShardEvent) throw new Error('event of an unknown kind: ' + JSON.stringify(e));
    events.push(toJSON(e.SubscribeToShardEvent));
    n += e.SubscribeToShardEvent.Records.length;
    if (n >= records) break;
  }
  return { Events: events };
}

for await (const line of createInterface({ input: process.stdin })) {
  const call = JSON.parse(line);
  const [sdk] = sdks[call.service];
  const command = sdk[call.op + 'Command'];
  if (!command) {
    say({ absent: true });
    continue;
  }
  try {
    const out = await client(call.service, call.secret ?? process.env.AWS_SECRET_ACCESS_KEY).send(new command(toSDK(call.in)));
    say({ out: call.op === 'SubscribeToShard' ? await subscription(out, call.records) : toJSON(out) });
  } catch (err) {
    say({ code: err.name, typed: typeof sdk[err.name] === 'function' && err instanceof sdk[err.name], message: err.message });
  }
}
process.exit(0);
