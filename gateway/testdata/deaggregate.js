// Reads Kinesis records as JSON from standard input ({Data: base64, …} each)
// and prints what aws-kinesis-agg finds in them: a line of JSON per user record.
const agg = require('aws-kinesis-agg');
let text = '';
process.stdin.on('data', (c) => { text += c; });
process.stdin.on('end', () => {
  for (const r of JSON.parse(text)) {
    const kinesis = { data: r.Data, partitionKey: r.PartitionKey, sequenceNumber: r.SequenceNumber };
    agg.deaggregateSync(kinesis, true, (err, users) => {
      if (err) { console.error(err); process.exit(1); }
      for (const u of users) {
        console.log(JSON.stringify({ key: u.partitionKey, hash: u.explicitPartitionKey, data: Buffer.from(u.data, 'base64').toString() }));
      }
    });
  }
});
