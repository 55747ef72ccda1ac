// A Node server that throws every body away and answers 201: the floor for receiving, and the origin of the benches.
import { createServer } from 'node:http';

const server = createServer({ requestTimeout: 0 }, (request, response) => {
  request.resume();
  request.on('end', () => response.writeHead(201, { 'Content-Length': '0' }).end());
});
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ url: `http://127.0.0.1:${server.address().port}` })));
