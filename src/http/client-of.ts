import type { ClientSide, DiscardLimits } from './client-side.js';
import { isHttp2, type Exchange } from './exchange.js';
import { Http1Client } from './http1-client.js';
import { Http2Client } from './http2-client.js';

/** How much is still read of a body whose answer is given. */
export const DISCARD_LIMITS: DiscardLimits = { bytes: 32 * 2 ** 20, ms: 10_000 };

/** The client of an exchange, whichever HTTP it speaks. */
export function clientOf(exchange: Exchange, limits = DISCARD_LIMITS): ClientSide {
  return isHttp2(exchange) ? new Http2Client(exchange, limits) : new Http1Client(exchange, limits);
}
