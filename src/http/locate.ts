import { fieldKey } from '../model/client-fields.js';
import type { RequestHead } from '../model/request-head.js';
import { asksByPath, isProtected, protectionOf, type Route, type Routes } from '../model/route.js';
import { canonicalTarget, mayClimbOut, mayLieBelow, otherReadings } from './request-target.js';

/** Where a request goes. `head`: as it is matched, asked for, stored and sent from here on. */
export type Located =
  | { readonly kind: 'upload'; readonly head: RequestHead }
  | { readonly kind: 'target'; readonly head: RequestHead; readonly route: Route }
  /** Its target has several readings, and what protects one of them would not see the others. */
  | { readonly kind: 'refused'; readonly detail: string };

type Rules = Pick<Routes, 'find' | 'findIgnoringCase' | 'hasProtected'>;

/**
 * Finds the route of a request, so that no origin can read its target in a way that another route protects. A protected
 * route sends on the very path that was matched; elsewhere the target goes on as it came, if every reading of it leads to
 * routes that protect alike.
 */
export function locate(received: RequestHead, routes: Rules, uploadsPath: string): Located {
  const { method, path, flaw } = received;
  if (path.startsWith(uploadsPath)) return { kind: 'upload', head: received };
  const head = belowItsOrigin(received, routes.find(method, path));
  if (!head) return refused(flaw ?? OTHERWISE);
  const readings = readingsOf(head);
  if (mayLieBelow(head, uploadsPath) && (readings()?.some((reading) => reading.startsWith(uploadsPath)) ?? true))
    return refused(flaw ?? OTHERWISE);
  const route = routes.find(method, path);
  if (!routes.hasProtected) return { kind: 'target', head, route };
  if (isMeantElsewhere(head, route, routes)) return { kind: 'refused', detail: OTHER_METHOD };
  if (flaw !== undefined && asksByPath(route)) return refused(flaw);
  const sendings = sendingsOf(head, route);
  const sent = sendings.find((sending) => {
    const others = sending === head ? readings() : otherReadings(sending);
    return otherwiseRead(sending, others, route, routes) === undefined;
  });
  if (sent) return { kind: 'target', head: sent, route };
  return refused(flaw ?? otherwiseRead(head, readings(), route, routes)!);
}

/** The request as it stays below the path that its origin's URL has, if it has one; undefined when it may not. */
function belowItsOrigin(head: RequestHead, { origin }: Route): RequestHead | undefined {
  if (new URL(origin).pathname === '/' || !mayClimbOut(head)) return head;
  const canonical = { ...head, target: canonicalTarget(head) };
  return head.flaw === undefined && !mayClimbOut(canonical) ? canonical : undefined;
}

/** Fields by which applications let clients that know only GET and POST mean another method, in the form of `fieldKey`. */
const METHOD_FIELD = /^x-(?:http-)?method(?:-override)?$/;

/** An application that believes such a field does by one method what another route protects. */
function isMeantElsewhere({ headers, path }: RequestHead, route: Route, routes: Rules): boolean {
  const meant = headers.filter(([name]) => METHOD_FIELD.test(fieldKey(name))).flatMap(([, value]) => value.split(','));
  return meant.some((method) => {
    const other = routes.find(method.trim().toUpperCase(), path);
    return isProtected(other) && protectionOf(other) !== protectionOf(route);
  });
}

const OTHER_METHOD =
  'X-HTTP-Method-Override asks for a method that is protected in another way than the method of this request. Send the ' +
  'request by the method that it means.';

/** The readings of a target, found out when they are first asked for. */
function readingsOf(head: RequestHead): () => Readings {
  let found: { readonly readings: Readings } | undefined;
  return () => (found ??= { readings: otherReadings(head) }).readings;
}

type Readings = ReturnType<typeof otherReadings>;

/**
 * The forms in which a target may go on, the best first. A literal dot segment has one meaning (RFC 3986 §5.2.4), so that
 * without it nobody can find another one.
 */
function sendingsOf(head: RequestHead, route: Route): RequestHead[] {
  const canonical = { ...head, target: canonicalTarget(head) };
  if (asksByPath(route)) return [canonical];
  return head.flaw === undefined && hasDotSegments(head.target) ? [head, canonical] : [head];
}

/** What lets a server find another, protected route in this target; undefined when it cannot. */
function otherwiseRead(head: RequestHead, readings: Readings, route: Route, routes: Rules): string | undefined {
  if (!readings) return OTHERWISE;
  const isElsewhere = (other: Route): boolean => isProtected(other) && protectionOf(other) !== protectionOf(route);
  if (readings.some((reading) => isElsewhere(routes.find(head.method, reading)))) return OTHERWISE;
  const inAnyCase = [head.path, ...readings].map((reading) => routes.findIgnoringCase(head.method, reading));
  return inAnyCase.some((other) => asksByPath(other) && isElsewhere(other)) ? CASE : undefined;
}

const OTHERWISE = 'a spelling that some servers read as another path';
const CASE = 'letters whose case some servers ignore, which makes it another path';

function refused(what: string): Located {
  return {
    kind: 'refused',
    detail: `The path of this request has ${what}, and it could be read as one that is protected. Send it in its plain form.`,
  };
}

function hasDotSegments(target: string): boolean {
  return /\/\.{1,2}(?:\/|$)/.test(target.split('?', 1)[0]!);
}
