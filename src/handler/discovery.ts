import { fieldValue, type HeaderLine, type Headers, withoutFields } from '../model/headers.js';
import type { RequestHead } from '../model/request-head.js';
import type { Route } from '../model/route.js';
import { withoutTrailing } from '../model/uri.js';
import { problemReply } from '../protocol/problem.js';
import type { Reply } from '../protocol/protocol.js';
import type { AnswerHead, RewrittenFields } from '../proxy/proxied-exchange.js';
import type { PassThrough } from '../proxy/reverse-proxy.js';
import type { Exchange } from '../server/exchange.js';
import type { Cors } from './cors.js';

/** Fields of ours whose members join those of the origin; any other field of ours takes the place of the origin's. */
const LISTS: ReadonlySet<string> = new Set(['accept-patch', 'allow', 'vary']);

/** Fields about uploads that an origin has no say in, also where the dialect of the request has none of them. */
const OURS_ALONE = ['upload-limit', 'upload-draft-interop-version'];

/** Statuses by which an origin says that it does not know OPTIONS: nothing in such an answer is worth keeping. */
const UNKNOWN: ReadonlySet<number> = new Set([404, 405, 501]);

/** Fields that every answer of a server has: alone they say nothing of the target. */
const OF_EVERY_ANSWER: ReadonlySet<string> = new Set(['alt-svc', 'content-length', 'date', 'server', 'via']);

export interface DiscoveryOptions {
  readonly passThrough: Pick<PassThrough, 'web'>;
  readonly cors: Pick<Cors, 'apply'>;
}

/** A discovery that was let in. */
export interface DiscoveryRequest {
  readonly exchange: Exchange;
  readonly head: RequestHead;
  readonly route: Route;
  /** What the origin's request gets besides. */
  readonly addedHeaders?: Headers;
}

/** Discovery (RUFH §4.1.4): what the origin says of a target, with what we add to it. */
export class Discovery {
  constructor(private readonly options: DiscoveryOptions) {}

  /** Passes the request through, and puts `ours` into the answer. Fulfilled when the exchange is over. Never fails. */
  async answer({ exchange, head, route, addedHeaders }: DiscoveryRequest, ours: Reply): Promise<void> {
    const { passThrough, cors } = this.options;
    const forPages = <T extends AnswerHead | Reply>(answer: T): T => ({ ...answer, ...cors.apply(answer, head) });
    await passThrough.web(exchange, head, route, addedHeaders, {
      retold: (theirs) => {
        const retold = together(theirs, ours);
        return 'instead' in retold ? { instead: forPages(retold.instead) } : forPages(retold);
      },
      instead: ({ status, detail }) => forPages(problemReply({ status, detail })),
    });
  }
}

/** What the client is told when the origin says `theirs`. Errors of a server stay as they are: health checks go by them. */
function together(theirs: AnswerHead, ours: Reply): RewrittenFields {
  if (UNKNOWN.has(theirs.status)) return { instead: ours };
  if (theirs.status >= 500) return theirs;
  const headers = merged(theirs.headers, ours.headers);
  // Apple's clients want a 200: a 204 that says nothing of the target becomes one.
  if (theirs.status !== 204 || !isSilent(theirs.headers)) return { ...theirs, headers };
  return { status: ours.status, reason: '', headers: [...withoutFields(headers, LENGTH), ['Content-Length', '0']] };
}

const LENGTH: ReadonlySet<string> = new Set(['content-length']);

function isSilent(headers: Headers): boolean {
  return withoutFields(headers, OF_EVERY_ANSWER).length === 0;
}

/** The origin's lines as they are, then ours. */
function merged(theirs: Headers, ours: Headers): HeaderLine[] {
  const replaced = new Set([...OURS_ALONE, ...ours.map(([name]) => name.toLowerCase())]);
  const lines = ours.map(([name, value]): HeaderLine => {
    return LISTS.has(name.toLowerCase()) ? [name, members(fieldValue(theirs, name), value)] : [name, value];
  });
  return [...withoutFields(theirs, replaced), ...lines];
}

/** The members of both lists, each once. */
function members(theirs = '', ours: string): string {
  const all = `${theirs},${ours}`.split(',').map((member) => withoutTrailing(member.replace(/^[\t ]+/, ''), '\t '));
  const firstOf = new Map(all.toReversed().map((member) => [member.toLowerCase(), member]));
  return [...new Set(all.map((member) => member.toLowerCase()))]
    .filter((key) => key !== '')
    .map((key) => firstOf.get(key)!)
    .join(', ');
}
