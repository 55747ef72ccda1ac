import { fieldValue, type HeaderLine, type Headers, withoutFields } from '../model/headers.js';
import type { RequestHead } from '../model/request-head.js';
import type { Route } from '../model/route.js';
import { withoutTrailing } from '../model/uri.js';
import { problemReply } from '../protocol/problem.js';
import type { Reply } from '../protocol/protocol.js';
import type { AnswerHead, RewrittenAnswer } from '../proxy/proxied-exchange.js';
import type { ReverseProxy } from '../proxy/reverse-proxy.js';
import type { Exchange } from '../server/exchange.js';
import type { Cors } from './cors.js';

/** List fields whose members are merged with the origin's; any other field of ours replaces the origin's. */
const LIST_FIELDS: ReadonlySet<string> = new Set(['accept-patch', 'allow', 'vary']);

/**
 * Upload fields that are removed from the origin's answer, even where the dialect of the request does not have them.
 */
const RESERVED_FIELDS = ['upload-limit', 'upload-draft-interop-version'];

/** Statuses of an origin that does not support OPTIONS; nothing of such an answer is kept. */
const OPTIONS_UNSUPPORTED: ReadonlySet<number> = new Set([404, 405, 501]);

/** Fields of every answer, which say nothing about the target. */
const GENERAL_FIELDS: ReadonlySet<string> = new Set(['alt-svc', 'content-length', 'date', 'server', 'via']);

export interface DiscoveryOptions {
  readonly reverseProxy: Pick<ReverseProxy, 'forward'>;
  readonly cors: Pick<Cors, 'apply'>;
}

/** An admitted discovery. */
export interface DiscoveryRequest {
  readonly exchange: Exchange;
  readonly head: RequestHead;
  readonly route: Route;
  /** The route whose uploads are announced. */
  readonly announced?: Route;
  /** Extra headers for the origin's request. */
  readonly addedHeaders?: Headers;
}

/** Discovery (RUFH §4.1.4): the origin's answer to OPTIONS, with the upload fields added. */
export class Discovery {
  constructor(private readonly options: DiscoveryOptions) {}

  /** Forwards the request and merges `ours` into the answer. Resolves when the exchange is over; never rejects. */
  async answer({ exchange, head, route, announced, addedHeaders }: DiscoveryRequest, ours: Reply): Promise<void> {
    const { reverseProxy, cors } = this.options;
    const withCors = <T extends AnswerHead | Reply>(answer: T): T => cors.apply(answer, { head, route, announced });
    await reverseProxy.forward(
      exchange,
      { head, route, addedHeaders },
      {
        rewrite: (theirs) => {
          const answer = combine(theirs, ours);
          return 'replacement' in answer ? { replacement: withCors(answer.replacement) } : withCors(answer);
        },
        failureReply: ({ status, detail }) => withCors(problemReply({ status, detail })),
      },
    );
  }
}

/** Merges our reply into the origin's answer. Server errors stay as they are, because health checks depend on them. */
function combine(theirs: AnswerHead, ours: Reply): RewrittenAnswer {
  if (OPTIONS_UNSUPPORTED.has(theirs.status)) return { replacement: ours };
  if (theirs.status >= 500) return theirs;
  const headers = merge(theirs.headers, ours.headers);
  // Apple's clients need a 200: a 204 that says nothing about the target becomes one.
  if (theirs.status !== 204 || !hasGeneralFieldsOnly(theirs.headers)) return { ...theirs, headers };
  return {
    status: ours.status,
    reason: '',
    headers: [...withoutFields(headers, LENGTH_FIELD), ['Content-Length', '0']],
  };
}

const LENGTH_FIELD: ReadonlySet<string> = new Set(['content-length']);

function hasGeneralFieldsOnly(headers: Headers): boolean {
  return withoutFields(headers, GENERAL_FIELDS).length === 0;
}

/** The origin's headers, except those that ours replace, and then ours. */
function merge(theirs: Headers, ours: Headers): HeaderLine[] {
  const replaced = new Set([...RESERVED_FIELDS, ...ours.map(([name]) => name.toLowerCase())]);
  const lines = ours.map(([name, value]): HeaderLine => {
    return LIST_FIELDS.has(name.toLowerCase()) ? [name, unionOf(fieldValue(theirs, name), value)] : [name, value];
  });
  return [...withoutFields(theirs, replaced), ...lines];
}

/** The members of both lists, each once and as it is spelled first. */
function unionOf(theirs = '', ours: string): string {
  const allMembers = `${theirs},${ours}`
    .split(',')
    .map((member) => withoutTrailing(member.replace(/^[\t ]+/, ''), '\t '));
  const firstSpelling = new Map(allMembers.toReversed().map((member) => [member.toLowerCase(), member]));
  return [...new Set(allMembers.map((member) => member.toLowerCase()))]
    .filter((key) => key !== '')
    .map((key) => firstSpelling.get(key)!)
    .join(', ');
}
