import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

/** A connection in between that sends on every byte in a packet of its own, in both directions. */
export interface ByteByByte {
  readonly url: string;
  close(): Promise<void>;
}

/** Stands before the server at `url`. One in the same process reads every byte by itself. */
export async function startByteByByte(url: string): Promise<ByteByByte> {
  const { hostname, port } = new URL(url);
  const sockets = new Set<Socket>();
  const server = createServer((from) => {
    const to = connect(Number(port), hostname);
    for (const [source, sink] of [
      [from, to],
      [to, from],
    ] as const) {
      sockets.add(source);
      source.setNoDelay(true);
      source.on('error', () => sink.destroy());
      source.once('close', () => sockets.delete(source));
      void forward(source, sink);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

async function forward(source: Socket, sink: Socket): Promise<void> {
  try {
    for await (const bytes of source as AsyncIterable<Buffer>)
      for (const byte of bytes) {
        sink.write(Uint8Array.of(byte));
        await new Promise(setImmediate);
      }
    sink.end();
  } catch {
    sink.destroy();
  }
}
