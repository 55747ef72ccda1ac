import type { HeaderLine } from '../../src/model/headers.js';
import { connect, type Transport } from './client.js';
import { connectH2, H2Exchange } from './http2-client.js';
import type { WireRequest, WireResponse } from './wire.js';

/** Sends a body in chunks, or without a length, and what follows it; reads the final response. */
export async function sendWithTrailers(
  transport: Transport,
  url: string,
  { method, target, headers = [], body = '' }: WireRequest,
  trailers: readonly HeaderLine[],
): Promise<WireResponse> {
  if (transport === 'HTTP/1.1') {
    const client = await connect(url);
    await client.sendHead(method, target, [...headers, ['Transfer-Encoding', 'chunked']]);
    // A chunk of no bytes would end the body.
    if (body.length > 0) await client.sendChunk(body);
    await client.endChunks(trailers);
    const response = await client.readFinal();
    client.destroy();
    return response;
  }
  const client = await connectH2(url);
  try {
    const fields = Object.fromEntries(headers.map(([name, value]) => [name.toLowerCase(), value]));
    const stream = client.session.request({ ...fields, ':method': method, ':path': target }, { waitForTrailers: true });
    stream.once('wantTrailers', () => stream.sendTrailers(Object.fromEntries(trailers)));
    stream.end(body);
    return await new H2Exchange(stream, 20_000).readFinal();
  } finally {
    await client.close();
  }
}
