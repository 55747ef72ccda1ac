// The origin of the benches, on bare sockets so that it costs little beside the proxies: throws every body away and answers with 200
// and two bytes; GET /big is answered with 1 GiB. It knows bodies with a Content-Length only.
import { createServer } from 'node:net';

const BIG_BYTES = 1024 ** 3;
const PIECE = Buffer.alloc(64 * 1024, 'a');
const SHORT = Buffer.from('HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok');

const server = createServer({ noDelay: true }, (socket) => {
  let head = '';
  let bodyBytes = 0;
  let isBig = false;
  socket.on('error', () => socket.destroy());
  socket.on('data', (bytes) => {
    let rest = bytes;
    while (rest.length > 0) {
      if (bodyBytes > 0) {
        const taken = Math.min(bodyBytes, rest.length);
        bodyBytes -= taken;
        rest = rest.subarray(taken);
      } else {
        const before = head.length;
        head += rest.latin1Slice();
        const end = head.indexOf('\r\n\r\n');
        if (end === -1) return;
        rest = rest.subarray(end + 4 - before);
        if (/\r\ntransfer-encoding:/i.test(head.slice(0, end + 2)))
          return socket.end('HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n');
        bodyBytes = Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0);
        isBig = head.startsWith('GET /big');
        head = '';
      }
      if (bodyBytes === 0) answer();
    }
  });

  function answer() {
    if (!isBig) return socket.write(SHORT);
    socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${BIG_BYTES}\r\n\r\n`);
    let remaining = BIG_BYTES;
    const send = () => {
      while (remaining > 0) {
        remaining -= PIECE.length;
        if (!socket.write(PIECE)) return void (remaining > 0 && socket.once('drain', send));
      }
    };
    send();
  }
});

server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ port: server.address().port })));
