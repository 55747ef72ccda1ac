import type { Reply } from '../../src/protocol/protocol.js';
import { sendReply, type SendResult } from '../../src/server/response.js';
import { openDoor } from './front-door.js';
import { connectH2, type H2Client } from './h2-client.js';
import { connect, type RawClient } from './raw-client.js';

/** A body in pieces that tells whether it was read to its end or given up. */
export function pieces(...parts: (string | Error)[]) {
  const told = { givenUp: false };
  async function* body() {
    try {
      for (const part of parts) {
        await Promise.resolve();
        if (part instanceof Error) throw part;
        yield Buffer.from(part);
      }
    } finally {
      told.givenUp = true;
    }
  }
  return { body: body(), told };
}

/** A door that answers with `reply`, and what became of it. */
export async function answering(reply: () => Reply) {
  const sent: SendResult[] = [];
  const door = await openDoor((exchange) => {
    exchange.req.resume();
    exchange.req.on('error', () => undefined);
    void sendReply(exchange, reply()).then((what) => sent.push(what));
  });
  return { url: door.url, sent };
}

export async function overHttp1<T>(url: string, use: (client: RawClient) => Promise<T>): Promise<T> {
  const client = await connect(url);
  try {
    return await use(client);
  } finally {
    client.destroy();
  }
}

export async function overHttp2<T>(url: string, use: (client: H2Client) => Promise<T>): Promise<T> {
  const client = await connectH2(url);
  try {
    return await use(client);
  } finally {
    await client.close();
  }
}
