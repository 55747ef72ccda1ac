import { clientFields, fieldKey, isTargetOverrideField } from '../model/client-fields.js';
import {
  type Authorize,
  type DeliveryRules,
  type Framing,
  type Gate,
  type Limits,
  type PlainBodies,
  reshapesRequest,
  type Route,
} from '../model/route.js';
import { toCors } from './cors.js';
import type { SettingIssue, SettingPath } from './errors.js';
import type { Settings } from './schema.js';
import { listOf } from './values.js';

type RouteSettings = NonNullable<Settings['routes']>[number];
type DeliverySettings = Settings['delivery'];

/** A route of the file, including inherited settings. */
export interface RouteConfig {
  readonly paths: readonly string[];
  /** Undefined: every method. */
  readonly methods?: readonly string[];
  /** Whether the origin ignores case in paths; undefined: unknown. */
  readonly ignoreCase?: boolean;
  readonly route: Route;
}

/** Name of the route that applies when no other matches. */
export const DEFAULT_ROUTE = 'default';

/** The route that applies when no other matches. It is resumable if there are no routes. */
export function toDefaultRoute(settings: Settings): Route {
  const delivery = toDelivery(settings.delivery, settings.origin);
  const resumable = settings.routes === undefined;
  return {
    name: DEFAULT_ROUTE,
    origin: settings.origin,
    resumable,
    limits: toLimits(settings.limits),
    ...toCapacity(settings.limits),
    delivery,
    authorize: toAuthorize(settings.authorize),
    bindTo: settings.bind_to,
    protocols: settings.protocols,
    plainBodies: inheritedPlainBodies(settings.plain_bodies, resumable, resumable && needsSpool(delivery)),
    ...corsRules(settings.cors),
    ...headerRules(settings.headers),
  };
}

/** Builds a route. Settings that it does not set are inherited from the top level. */
export function toRoute(own: RouteSettings, top: Settings): RouteConfig {
  const delivery = toDelivery(mergeDelivery(top.delivery, own.delivery), own.origin ?? top.origin);
  const spoolsPlainBodies = needsSpool(delivery) && (own.resumable || ownSettingsNeedSpool(own.delivery));
  return {
    paths: listOf(own.match.path),
    ...(own.match.methods === undefined ? {} : { methods: listOf(own.match.methods) }),
    ...(own.match.ignore_case === undefined ? {} : { ignoreCase: own.match.ignore_case }),
    route: {
      name: own.name ?? listOf(own.match.path).join(','),
      origin: own.origin ?? top.origin,
      resumable: own.resumable,
      limits: toLimits({ ...top.limits, ...own.limits }),
      ...toCapacity({ ...top.limits, ...own.limits }),
      delivery,
      authorize: toAuthorize({ ...top.authorize, ...own.authorize }),
      bindTo: own.bind_to ?? top.bind_to,
      protocols: own.protocols ?? top.protocols,
      plainBodies: own.plain_bodies ?? inheritedPlainBodies(top.plain_bodies, own.resumable, spoolsPlainBodies),
      ...corsRules({ ...top.cors, ...own.cors }),
      ...headerRules({ ...top.headers, ...own.headers }),
    },
  };
}

function corsRules(settings: Settings['cors']): Pick<Route, 'cors'> {
  const cors = toCors(settings);
  return cors ? { cors } : {};
}

function headerRules({ underscores, original_url: targetOverrides }: Settings['headers']) {
  return {
    ...(underscores === 'pass' && { passesUnderscores: true }),
    ...(targetOverrides === 'trust' && { trustsTargetOverrides: true }),
  };
}

/** Whether plain bodies need the spool: passed through unchanged, they would bypass the gate, framing, target or method. */
function needsSpool(delivery: DeliveryRules): boolean {
  return reshapesRequest(delivery) || delivery.gate !== undefined;
}

/** Whether the route itself sets gate, framing, target or method: a route without uploads does not inherit them. */
function ownSettingsNeedSpool({ gate, framing, target, method }: NonNullable<RouteSettings['delivery']> = {}): boolean {
  return [gate, framing, target, method].some((setting) => setting !== undefined);
}

/** The inherited setting. `refuse` tells clients to upload, so it applies only to resumable routes. */
function inheritedPlainBodies(
  setting: PlainBodies | null,
  resumable: boolean,
  spoolsPlainBodies: boolean,
): PlainBodies {
  if (setting === 'refuse' && !resumable) return 'pass';
  return setting ?? (spoolsPlainBodies ? 'spool' : 'pass');
}

function mergeDelivery(top: DeliverySettings, own: RouteSettings['delivery'] = {}): DeliverySettings {
  return {
    ...top,
    ...own,
    eager: { ...top.eager, ...own.eager },
    breaker: { ...top.breaker, ...own.breaker },
    retry: { ...top.retry, ...own.retry },
  };
}

function toLimits(limits: Omit<Settings['limits'], 'idle_timeout'>): Limits {
  return {
    ...withoutNulls({
      maxSize: limits.max_size,
      maxAppendSize: limits.max_append_size,
      minAppendSize: limits.min_append_size,
    }),
    minSize: limits.min_size,
    maxAgeSeconds: toSeconds(limits.max_age),
    maxEmptyAgeSeconds: toSeconds(limits.max_idle_empty),
  };
}

function toCapacity({ max_uploads: uploads, max_spooled: bytes }: Settings['limits']): Pick<Route, 'capacity'> {
  return uploads === null && bytes === null ? {} : { capacity: withoutNulls({ uploads, bytes }) };
}

function toDelivery(delivery: DeliverySettings, origin: string): DeliveryRules {
  const { eager, breaker, retry, guarantee } = delivery;
  return {
    mode: delivery.mode,
    eager: { idleMs: eager.idle, unknownLength: eager.unknown_length },
    ...(guarantee === 'by_method' ? {} : { guarantee }),
    timeoutMs: delivery.timeout,
    answerTimeoutMs: delivery.answer_timeout ?? ANSWER_TIMEOUT_FACTOR * delivery.timeout,
    ...withoutNulls({ maxAnswerSize: delivery.max_answer_size }),
    waitMs: delivery.wait,
    respond: delivery.respond,
    keepAnswerMs: delivery.keep_answer,
    keepAnswerSize: delivery.keep_answer_size,
    preserveHost: delivery.preserve_host,
    // If `origin` has a path, clients see a different path than the origin reports, whatever the host.
    rewriteLocation: delivery.rewrite_location ?? (!delivery.preserve_host || new URL(origin).pathname !== '/'),
    ...withoutNulls({ method: delivery.method, target: delivery.target, gate: toGate(delivery.gate) }),
    framing: toFraming(delivery.framing),
    clientKeys: delivery.client_keys,
    parkOn: delivery.park_on,
    ...withoutNulls({ credentials: delivery.credentials?.map((name) => name.toLowerCase()) ?? null }),
    concurrency: delivery.concurrency,
    breaker: { failures: breaker.failures, pauseMs: breaker.pause },
    retry: {
      maxAttempts: retry.attempts,
      firstDelayMs: retry.first_delay,
      longestDelayMs: retry.longest_delay,
      ...withoutNulls({ retryOn: retry.retry_on }),
      whileWaitingMs: retry.while_waiting ?? delivery.wait,
      inBackgroundMs: retry.in_background,
    },
  };
}

/** Default of `answer_timeout`, as a multiple of `timeout`. */
const ANSWER_TIMEOUT_FACTOR = 4;

function toFraming(framing: DeliverySettings['framing']): Framing {
  if (framing.type === 'raw') return { kind: 'raw' };
  const { field, fields, fields_from_headers: fieldsFromHeaders, fields_from_metadata: fieldsFromMetadata } = framing;
  return { kind: 'multipart', field, fields, fieldsFromHeaders, fieldsFromMetadata };
}

function toGate(gate: DeliverySettings['gate']): Gate | null {
  if (gate === null) return null;
  const timeoutMs = gate.timeout;
  // The schema ensures that exactly one of the two is set.
  if (gate.http === undefined) return { kind: 'command', command: gate.command!, timeoutMs };
  return { kind: 'http', url: gate.http, timeoutMs };
}

function toAuthorize({ forward_auth: forwardAuth, scope, preflight, recheck }: Settings['authorize']): Authorize {
  if (forwardAuth === null) return { preflight, recheck };
  const { url, timeout: timeoutMs, copy_headers: copyHeaders, principal_header: principalHeader } = forwardAuth;
  return { forwardAuth: { url, scope, timeoutMs, copyHeaders, principalHeader }, preflight, recheck };
}

/** Milliseconds as seconds, rounded up so that nothing ends early. */
function toSeconds(ms: number): number {
  return Math.ceil(ms / 1000);
}

/** The entries that are not null. */
export function withoutNulls<T extends Record<string, unknown>>(entries: T): { [K in keyof T]?: NonNullable<T[K]> } {
  return Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== null)) as {
    [K in keyof T]?: NonNullable<T[K]>;
  };
}

/** Cross-checks a route with its inherited settings. `path`: path of the route; empty for the top level. */
export function routeCrossChecks(path: SettingPath, route: Route): SettingIssue[] {
  const all = [
    ...limitErrors(route.limits),
    ...timeErrors(route),
    ...eagerErrors(route),
    ...missingForwardAuth(route),
    ...unusableBindings(route),
    ...unusableCredentials(route),
    ...unusableFormFields(route),
    ...refuseWithoutUploads(route),
  ];
  return all.map((issue) => ({
    ...issue,
    path: [...path, ...issue.path],
    ...(issue.relatedPath ? { relatedPath: [...path, ...issue.relatedPath] } : {}),
  }));
}

function refuseWithoutUploads({ resumable, plainBodies }: Route): SettingIssue[] {
  if (resumable || plainBodies !== 'refuse') return [];
  const problem = 'cannot be refuse when `resumable` is false: clients would have no way to send a body';
  return [{ path: ['plain_bodies'], problem }];
}

function limitErrors({ maxSize, minSize, maxAppendSize, minAppendSize = 0 }: Limits): SettingIssue[] {
  return [
    ...tooLarge(['limits', 'min_size'], minSize, 'max_size', maxSize),
    ...tooLarge(['limits', 'min_append_size'], minAppendSize, 'max_append_size', maxAppendSize),
  ];
}

function timeErrors({ delivery: { retry, waitMs } }: Route): SettingIssue[] {
  const { firstDelayMs, longestDelayMs, whileWaitingMs } = retry;
  return [
    ...tooLarge(['delivery', 'retry', 'first_delay'], firstDelayMs, 'longest_delay', longestDelayMs, 'ms'),
    ...tooLarge(['delivery', 'retry', 'while_waiting'], whileWaitingMs, 'delivery.wait', waitMs, 'ms'),
  ];
}

function tooLarge(path: SettingPath, value: number, name: string, max: number | undefined, unit = ''): SettingIssue[] {
  if (max === undefined || value <= max) return [];
  return [{ path, problem: `is ${value}${unit}, which is more than ${name} (${max}${unit})` }];
}

/** Eager delivery sends bytes before the upload is complete, so it excludes checks of the complete upload. */
function eagerErrors({ delivery: { mode, gate }, authorize }: Route): SettingIssue[] {
  if (mode !== 'eager') return [];
  const path = ['delivery', 'mode'];
  const rechecked = {
    path,
    relatedPath: ['authorize', 'recheck'],
    problem: 'cannot be eager when authorize.recheck is true: an eager delivery begins before the recheck',
  };
  const gated = {
    path,
    problem: 'cannot be eager with a gate: the gate must see the complete upload before the origin does',
  };
  return [...(gate ? [gated] : []), ...(authorize.recheck ? [rechecked] : [])];
}

/** Fields of a single request or connection, and those of upload protocols: their values differ between requests. */
const PER_REQUEST_FIELD =
  /^(?:connection|content-.*|date|expect|idempotency-key|keep-alive|proxy-connection|range|te|trailer|transfer-encoding|upgrade|upload-.*|tus-.*|via)$/i;

/** Finds headers in `bind_to` that cannot identify a client, because it cannot send them or they differ between requests. */
function unusableBindings(route: Route): SettingIssue[] {
  const { bindTo } = route;
  if (bindTo === 'principal') return [];
  return bindTo.flatMap((name, index) => {
    const problem = bindingProblem(name, route);
    return problem === undefined ? [] : [{ path: ['bind_to', index], problem }];
  });
}

function bindingProblem(name: string, route: Route): string | undefined {
  if (PER_REQUEST_FIELD.test(name)) return `cannot name ${name}, which differs from request to request`;
  if (clientFields([[name, '']], route).length > 0) return undefined;
  const isSetByAuthService = clientFields([[name, '']], { ...route, passesUnderscores: true }).length === 0;
  return isSetByAuthService
    ? `cannot name ${name}, which only the \`authorize.forward_auth\` service sets: use \`bind_to: principal\``
    : `cannot name ${name}: fields with "_" in their names are dropped unless \`headers.underscores\` is pass`;
}

/** Finds headers in `credentials` that never arrive, or that belong to a single message. */
function unusableCredentials(route: Route): SettingIssue[] {
  return (route.delivery.credentials ?? []).flatMap((name, index) => {
    const path = ['delivery', 'credentials', index];
    if (PER_REQUEST_FIELD.test(name) || /^host$/i.test(name))
      return [{ path, problem: `cannot name ${name}, which describes a request, not its sender` }];
    if (clientFields([[name, '']], route).length > 0) return [];
    return [{ path, problem: `cannot name ${name}: ${notReceivedReason(name, route)}` }];
  });
}

/** Finds headers in `fields_from_headers` that neither clients nor the auth service can set. */
function unusableFormFields(route: Route): SettingIssue[] {
  const { framing } = route.delivery;
  if (framing.kind !== 'multipart') return [];
  const copied = (route.authorize.forwardAuth?.copyHeaders ?? []).map((name) => name.toLowerCase());
  return framing.fieldsFromHeaders.flatMap(([field, name]) => {
    if (copied.includes(name.toLowerCase()) || clientFields([[name, '']], route).length > 0) return [];
    const path = ['delivery', 'framing', 'fields_from_headers', field];
    return [{ path, problem: `cannot be taken from ${name}: ${notReceivedReason(name, route)}` }];
  });
}

function notReceivedReason(name: string, route: Route): string {
  if (clientFields([[name, '']], { ...route, passesUnderscores: true }).length > 0)
    return 'fields with "_" in their names are dropped unless `headers.underscores` is pass';
  if (isTargetOverrideField(fieldKey(name)))
    return 'fields that name another target are dropped unless `headers.original_url` is trust';
  return 'clients cannot set it; add it to `copy_headers` of `authorize.forward_auth` if that service sets it';
}

function missingForwardAuth({ authorize, bindTo }: Route): SettingIssue[] {
  if (authorize.forwardAuth) return [];
  const relatedPath = ['authorize', 'forward_auth'];
  const missing = 'requires `authorize.forward_auth`, which is not set';
  return [
    ...(authorize.recheck ? [{ path: ['authorize', 'recheck'], problem: missing }] : []),
    ...(bindTo === 'principal'
      ? [
          {
            path: ['bind_to'],
            relatedPath,
            problem: 'cannot be principal without `authorize.forward_auth`, which names the principal',
          },
        ]
      : []),
  ];
}
