// Many clients that each send a large body very slowly: prints a line once all have begun, and goes on until it is killed.
// node slow-crowd.mjs '{"url": …, "connections": …, "size": …, "headers": {…}}'
import { connect } from 'node:net';

const { url, connections, size, headers } = JSON.parse(process.argv[2]);
const { hostname, port, host, pathname } = new URL(url);
const lines = Object.entries({ Host: host, ...headers, 'Content-Length': size });
const head = `POST ${pathname} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`;
const piece = Buffer.alloc(1024, 'rufh-proxy ');
const PAUSE_MS = 1000;

function fail(problem) {
  console.error(`a slow client failed: ${problem}`);
  process.exit(1);
}

function open() {
  return new Promise((resolve) => {
    const socket = connect({ port, host: hostname, noDelay: true }, () => {
      socket.write(head);
      socket.write(piece);
      resolve(socket);
    });
    socket.on('error', ({ message }) => fail(message)).on('close', () => fail('a connection was closed'));
    socket.resume();
  });
}

const sockets = [];
while (sockets.length < connections)
  sockets.push(...(await Promise.all(Array.from({ length: Math.min(50, connections - sockets.length) }, open))));
console.log('all have begun');
setInterval(() => sockets.forEach((socket) => socket.write(piece)), PAUSE_MS);
