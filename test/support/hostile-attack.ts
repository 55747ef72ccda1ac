import { seededRandom } from './temporary.js';

/** One connection's worth of malice. */
export interface Attack {
  readonly family: string;
  /** Latin-1. */
  readonly bytes: string;
  /** What the client does when it has sent them. */
  readonly then: 'wait' | 'end' | 'reset' | 'linger';
  /**
   * `refused`: 4xx or 5xx, and the origin sees nothing. `answered`: some final response. `anything`: whatever comes, if
   * anything does, is a proper response.
   */
  readonly verdict: 'refused' | 'answered' | 'anything';
  /** Nothing that follows on this connection may be acted upon. */
  readonly closes?: boolean;
  /** The request ended before its end: the origin must not take it for whole. */
  readonly isCut?: boolean;
}

/** What an attack is aimed at. */
export interface Victim {
  /** Path of an upload of ten bytes so far and a length of a hundred, created with interop 6. */
  readonly target: string;
  /** Of an upload nobody needs any more. */
  readonly expendable: string;
  readonly host: string;
}

/** They must never be seen in a log. */
const SECRETS = { authorization: 'Bearer hush-hush-token', cookie: 'session=hush-hush-cookie' };

/** Chance with a seed, and the request texts that every family is made of. */
export class Malice {
  private readonly random: () => number;

  constructor(
    seed: number,
    readonly victim: Victim,
    /** Carried by every request that has a header section, so that the origin's requests can be told apart. */
    readonly marker: string,
  ) {
    this.random = seededRandom(seed);
  }

  of<T>(choices: readonly T[]): T {
    return choices[Math.floor(this.random() * choices.length)]!;
  }

  below(limit: number): number {
    return Math.floor(this.random() * limit);
  }

  happens(probability: number): boolean {
    return this.random() < probability;
  }

  /** A request line and a header section as a well-behaved client writes them, but for what is given. */
  head(method: string, target: string, lines: readonly string[] = [], version = 'HTTP/1.1'): string {
    const secrets = this.happens(0.5) ? [`Authorization: ${SECRETS.authorization}`, `Cookie: ${SECRETS.cookie}`] : [];
    const all = [`Host: ${this.victim.host}`, `X-Marker: ${this.marker}`, ...secrets, ...lines];
    return `${method} ${target} ${version}\r\n${all.map((line) => `${line}\r\n`).join('')}\r\n`;
  }

  /** The same with a body of its announced length. */
  whole(method: string, target: string, lines: readonly string[], body: string): string {
    return this.head(method, target, [...lines, `Content-Length: ${body.length}`]) + body;
  }

  /** A request that hides behind another. */
  smuggled(): string {
    return `GET /smuggled HTTP/1.1\r\nHost: a\r\nX-Smuggled: ${this.marker}\r\n\r\n`;
  }
}
