// Many clients at once, each on a connection of its own that stays open: sends the same request until there were enough.
// node crowd.mjs '{"url": …, "method": …, "connections": …, "requests": …, "size": …, "headers": {…}}'
import { connect } from 'node:net';
import { responseReader } from './responses.mjs';

const { url, method = 'POST', connections, requests, size, headers } = JSON.parse(process.argv[2]);
const { hostname, port, host, pathname } = new URL(url);
const lines = Object.entries({ Host: host, ...headers, 'Content-Length': size });
const head = `${method} ${pathname} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`;
const request = Buffer.concat([Buffer.from(head), Buffer.alloc(size, 'rufh-proxy ')]);
const waits = [];
const statuses = {};
let begun = 0;

/** Fulfilled when there is nothing more to send. */
function sendAll(socket) {
  return new Promise((resolve, reject) => {
    let startedAt = 0;
    const next = () => {
      if (begun++ >= requests) return resolve();
      startedAt = performance.now();
      socket.write(request);
    };
    const read = responseReader((status) => {
      if (status < 200) return;
      waits.push(performance.now() - startedAt);
      statuses[status] = (statuses[status] ?? 0) + 1;
      next();
    });
    socket.on('data', read);
    socket.on('error', reject);
    socket.on('close', () => reject(new Error('a connection was closed')));
    next();
  });
}

function open() {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: hostname, noDelay: true }, () => resolve(socket));
    socket.once('error', reject);
  });
}

const sockets = [];
// Not all at once, which would be a bench of the backlog.
while (sockets.length < connections)
  sockets.push(...(await Promise.all(Array.from({ length: Math.min(50, connections - sockets.length) }, open))));
const cpuBefore = process.cpuUsage();
const startedAt = performance.now();
await Promise.all(sockets.map(sendAll));
const seconds = (performance.now() - startedAt) / 1000;
const { user, system } = process.cpuUsage(cpuBefore);
waits.sort((a, b) => a - b);
const [medianMs, p99Ms] = [0.5, 0.99].map((share) => waits[Math.floor(waits.length * share)]);
console.log(JSON.stringify({ seconds, medianMs, p99Ms, statuses, cpuSeconds: (user + system) / 1e6 }));
process.exit(0);
