import { type HeaderLine, type Headers, fieldValue, withoutFields } from '../model/headers.js';
import type { RequestHead } from '../model/request-head.js';
import type { Route } from '../model/route.js';
import type { Reply } from '../protocol/protocol.js';
import type { PassThrough } from './pass-through.js';

/** Fields whose members are put together from both answers. */
const LISTS = ['Accept-Patch', 'Allow', 'Vary'];

/** Fields of our answer that the origin has no say in. */
const OURS = new Set(['upload-limit', 'upload-draft-interop-version', 'content-length', ...LISTS.map(lower)]);

/** Statuses by which an origin says that it does not know OPTIONS: nothing in such an answer is worth keeping. */
const UNKNOWN = new Set([404, 405, 501]);

/** Discovery (RUFH §4.1.4): what the origin says of a target, with what we add to it. */
export class Discovery {
  constructor(private readonly passThrough: Pick<PassThrough, 'discover'>) {}

  /** `ours` put together with the origin's answer to the same OPTIONS; ours alone when it has none. */
  async merge(head: RequestHead, route: Route, ours: Reply, added?: Headers): Promise<Reply> {
    const theirs = await this.passThrough.discover(head, route, added);
    if (!theirs || theirs.status >= 500 || UNKNOWN.has(theirs.status)) return ours;
    const lists = LISTS.flatMap((name): HeaderLine[] => {
      const value = together(fieldValue(theirs.headers, name), fieldValue(ours.headers, name));
      return value === undefined ? [] : [[name, value]];
    });
    const own = ours.headers.filter(([name]) => !LISTS.some((list) => lower(list) === lower(name)));
    const status = theirs.status === 204 || theirs.status === 200 ? 204 : theirs.status;
    return { status, headers: [...describing(theirs.headers), ...lists, ...own] };
  }
}

/** Without the fields we replace, and without what describes a content that is not relayed. */
function describing(headers: Headers): HeaderLine[] {
  return withoutFields(headers, new Set([...OURS, 'content-type', 'content-encoding', 'etag', 'last-modified']));
}

function together(theirs: string | undefined, ours: string | undefined): string | undefined {
  const members = [theirs, ours].flatMap(
    (value) => value?.replace(/^[\t ]+|[\t ]+$/g, '').split(/[\t ]*,[\t ]*/) ?? [],
  );
  const unique = members.filter(
    (member, at) => member !== '' && members.findIndex((m) => lower(m) === lower(member)) === at,
  );
  return unique.length === 0 ? undefined : unique.join(', ');
}

function lower(text: string): string {
  return text.toLowerCase();
}
