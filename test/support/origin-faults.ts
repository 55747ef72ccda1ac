import type { RawExchange } from './raw-exchange.js';

/** What becomes of a delivery whose first attempt met a fault; the origin is well from then on. */
export type Course =
  /** The origin's answer, whatever its status, is the answer. */
  | { readonly is: 'answer'; readonly status: number; readonly whole: boolean }
  /** Nothing reached the origin: tried again under any guarantee. */
  | { readonly is: 'never-sent' }
  /** The origin said "not now": tried again under any guarantee. */
  | { readonly is: 'refused'; readonly afterMs: number }
  /** A gateway before the origin lost sight of it: nobody knows what it did, and the guarantee decides. */
  | { readonly is: 'gateways'; readonly afterMs: number }
  /**
   * Nobody knows what the origin did: the guarantee decides. `seen`: it read the request's head. `shown`: its answer had
   * been under way for so long that clients were shown the beginning of it.
   */
  | { readonly is: 'unknown'; readonly seen: boolean; readonly whole: boolean; readonly shown?: true }
  /** The origin wants other credentials: parked. */
  | { readonly is: 'challenge' };

export interface OriginFault {
  readonly name: string;
  readonly course: Course;
  /** Only the proxy's patience ends it. */
  readonly stalls?: true;
  /** The origin is not even there, or ends the connection before it reads. */
  readonly before?: 'refuses' | 'closes';
  /** How the first request is played. `released`: until then the attempt is under way, and no client has its answer. */
  readonly script: (exchange: RawExchange, released: Promise<void>) => Promise<void>;
}

/** Bytes of the upload; half of it is more than anybody reads ahead. */
export const UPLOAD_SIZE = 1024 * 1024;
const HALF = UPLOAD_SIZE / 2;
const LARGE_ANSWER_MEBIBYTES = 100;

export async function made(exchange: RawExchange): Promise<void> {
  await exchange.readBody();
  await exchange.respond({ status: 201, body: 'made' });
}

/** Reads the whole body before anything goes wrong. */
function afterBody(play: (exchange: RawExchange) => Promise<void> | void): OriginFault['script'] {
  return async (exchange, released) => {
    await exchange.readBody();
    await released;
    await play(exchange);
  };
}

/** Reads half of the body before anything goes wrong. */
function withinBody(play: (exchange: RawExchange) => Promise<void> | void): OriginFault['script'] {
  return async (exchange, released) => {
    await exchange.readBytes(HALF);
    await released;
    await play(exchange);
  };
}

function early(status: number): OriginFault['script'] {
  return withinBody(async (exchange) => {
    await exchange.respond({ status, headers: [['Connection', 'close']], body: 'no' });
    exchange.socket.destroy();
  });
}

function status(code: number, retryAfter: boolean): OriginFault {
  const headers = retryAfter ? [['Retry-After', '1'] as const] : [];
  const afterMs = retryAfter ? 1000 : 0;
  const isOrigins = code === 503 || (code === 429 && retryAfter);
  const isGateways = code === 502 || code === 504;
  return {
    name: `answers ${code}${retryAfter ? ' with `Retry-After: 1`' : ''}`,
    course:
      isOrigins || isGateways
        ? { is: isOrigins ? 'refused' : 'gateways', afterMs }
        : { is: 'answer', status: code, whole: true },
    script: afterBody((exchange) => exchange.respond({ status: code, headers, body: 'no' })),
  };
}

async function largeAnswer(exchange: RawExchange): Promise<void> {
  const piece = Buffer.alloc(1024 * 1024, 'x');
  await exchange.write(`HTTP/1.1 200 OK\r\nContent-Length: ${LARGE_ANSWER_MEBIBYTES * piece.length}\r\n\r\n`);
  for (let count = 0; count < LARGE_ANSWER_MEBIBYTES; count++) await exchange.write(piece);
}

/** Slower than what is held back until it is recorded, but never silent for long. */
async function slowAnswer(exchange: RawExchange): Promise<void> {
  await exchange.write('HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n');
  for (const letter of 'so slow.') {
    await new Promise((resolve) => setTimeout(resolve, 90));
    await exchange.write(letter);
  }
}

/** Everything an origin can do wrong, and some things it does right in an unusual way. */
export function originFaults(): OriginFault[] {
  const statuses = [408, 429, 500, 502, 503, 504];
  return [
    { name: 'refuses the connection', before: 'refuses', course: { is: 'never-sent' }, script: made },
    {
      name: 'accepts and closes',
      before: 'closes',
      course: { is: 'unknown', seen: false, whole: false },
      script: made,
    },
    {
      name: 'resets after the headers',
      course: { is: 'unknown', seen: true, whole: false },
      script: async (exchange, released) => {
        await released;
        exchange.reset();
      },
    },
    {
      name: 'resets after half the body',
      course: { is: 'unknown', seen: true, whole: false },
      script: withinBody((exchange) => exchange.reset()),
    },
    {
      name: 'stalls before its answer',
      stalls: true,
      course: { is: 'unknown', seen: true, whole: true },
      script: afterBody(() => undefined),
    },
    {
      name: 'stalls in its answer',
      stalls: true,
      course: { is: 'unknown', seen: true, whole: true, shown: true },
      script: afterBody((exchange) => exchange.write('HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\nhalf')),
    },
    {
      name: 'cuts its answer',
      course: { is: 'unknown', seen: true, whole: true },
      script: afterBody(async (exchange) => {
        await exchange.write('HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\nhalf');
        exchange.end();
      }),
    },
    {
      name: 'answers with garbage',
      course: { is: 'unknown', seen: true, whole: true },
      script: afterBody((exchange) => exchange.write('this is no HTTP at all\r\n\r\n')),
    },
    {
      name: 'answers and closes',
      course: { is: 'answer', status: 200, whole: true },
      script: afterBody(async (exchange) => {
        await exchange.respond({ status: 200, headers: [['Connection', 'close']], body: 'made' });
        exchange.end();
      }),
    },
    { name: 'answers slowly', course: { is: 'answer', status: 200, whole: true }, script: afterBody(slowAnswer) },
    { name: 'answers 100 MB', course: { is: 'answer', status: 200, whole: true }, script: afterBody(largeAnswer) },
    { name: 'refuses early with 413', course: { is: 'answer', status: 413, whole: false }, script: early(413) },
    { name: 'refuses early with 401', course: { is: 'challenge' }, script: early(401) },
    ...statuses.flatMap((code) => [status(code, false), status(code, true)]),
  ];
}
