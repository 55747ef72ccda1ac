// A relay that gives every byte on after a delay, as a distant network does, and never limits the rate.
// node relay.mjs '{"to": "host:port", "delayMs": …}': the delay of each direction.
import { connect, createServer } from 'node:net';

const { to, delayMs } = JSON.parse(process.argv[2]);
const [host, port] = to.split(':');

/** Bytes that the receiver does not take pile up here: no more than the sender's flow control allows. */
function delay(from, into) {
  const due = [];
  let timer;
  const flush = () => {
    timer = undefined;
    while (due.length > 0 && due[0].at <= performance.now()) due.shift().give();
    if (due.length > 0) timer = setTimeout(flush, due[0].at - performance.now());
  };
  const later = (give) => {
    due.push({ at: performance.now() + delayMs, give });
    timer ??= setTimeout(flush, delayMs);
  };
  from.on('data', (bytes) => later(() => into.write(bytes)));
  from.on('close', () => later(() => into.destroy()));
  from.on('error', () => undefined);
}

const server = createServer({ noDelay: true }, (client) => {
  const upstream = connect({ host, port, noDelay: true });
  delay(client, upstream);
  delay(upstream, client);
});
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ port: server.address().port })));
