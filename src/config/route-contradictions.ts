import { clientFields, fieldKey, namesOtherTarget } from '../model/client-fields.js';
import type { Limits, Route } from '../model/route.js';
import type { Contradiction, SettingPath } from './mistake.js';

/** What does not fit together in one route, with what it inherits. `path`: where the route stands; empty for the top. */
export function routeContradictions(path: SettingPath, route: Route): Contradiction[] {
  const all = [
    ...limits(route.limits),
    ...times(route),
    ...eager(route),
    ...nobodyToAsk(route),
    ...boundByNothing(route),
    ...credentialsOfNothing(route),
    ...fieldsOfNothing(route),
    ...noUploads(route),
  ];
  return all.map((found) => ({
    ...found,
    path: [...path, ...found.path],
    ...(found.against ? { against: [...path, ...found.against] } : {}),
  }));
}

function noUploads({ resumable, plainBodies }: Route): Contradiction[] {
  if (resumable || plainBodies !== 'refuse') return [];
  const problem = 'cannot be refuse where `resumable` is false: there would be no way to send a body';
  return [{ path: ['plain_bodies'], problem }];
}

function limits({ maxSize, minSize, maxAppendSize, minAppendSize = 0 }: Limits): Contradiction[] {
  return [
    ...tooLarge(['limits', 'min_size'], minSize, 'max_size', maxSize),
    ...tooLarge(['limits', 'min_append_size'], minAppendSize, 'max_append_size', maxAppendSize),
  ];
}

function times({ delivery: { retry, waitMs } }: Route): Contradiction[] {
  const { firstDelayMs, longestDelayMs, whileWaitingMs } = retry;
  return [
    ...tooLarge(['delivery', 'retry', 'first_delay'], firstDelayMs, 'longest_delay', longestDelayMs, 'ms'),
    ...tooLarge(['delivery', 'retry', 'while_waiting'], whileWaitingMs, 'delivery.wait', waitMs, 'ms'),
  ];
}

function tooLarge(
  path: SettingPath,
  found: number,
  name: string,
  most: number | undefined,
  unit = '',
): Contradiction[] {
  if (most === undefined || found <= most) return [];
  return [{ path, problem: `is ${found}${unit}, more than ${name}, which is ${most}${unit}` }];
}

/** With eager delivery the origin has the bytes before anybody has seen the whole. */
function eager({ delivery: { mode, gate }, authorize }: Route): Contradiction[] {
  if (mode !== 'eager') return [];
  const path = ['delivery', 'mode'];
  const rechecked = {
    path,
    against: ['authorize', 'recheck'],
    problem: 'cannot be eager with authorize.recheck: that asks before delivery, which would have begun long before',
  };
  const gated = { path, problem: 'cannot be eager with a gate: a gate has to see the whole before the origin does' };
  return [...(gate ? [gated] : []), ...(authorize.recheck ? [rechecked] : [])];
}

/** Fields of one request or connection, and those of upload protocols: they are not the same on the next request. */
const OF_ONE_REQUEST =
  /^(?:connection|content-.*|date|expect|idempotency-key|keep-alive|proxy-connection|range|te|trailer|transfer-encoding|upgrade|upload-.*|tus-.*|via)$/i;

/** Uploads are bound by what clients say: by a field that never comes from one, all of them would have one owner. */
function boundByNothing(route: Route): Contradiction[] {
  const { bindTo } = route;
  if (bindTo === 'principal') return [];
  return bindTo.flatMap((name, index) => {
    const problem = whyNotBound(name, route);
    return problem === undefined ? [] : [{ path: ['bind_to', index], problem }];
  });
}

function whyNotBound(name: string, route: Route): string | undefined {
  if (OF_ONE_REQUEST.test(name)) return `cannot name ${name}, which is about one request: the next one says another`;
  if (clientFields([[name, '']], route).length > 0) return undefined;
  const isOfService = clientFields([[name, '']], { ...route, passesUnderscores: true }).length === 0;
  return isOfService
    ? `cannot name ${name}, which only the service of \`authorize.forward_auth\` says: use \`bind_to: principal\``
    : `cannot name ${name}: fields with "_" in their names are dropped unless \`headers.underscores\` is pass`;
}

/** Names that are no credentials: the field never comes, or it belongs to one message and would be put on another. */
function credentialsOfNothing(route: Route): Contradiction[] {
  return (route.delivery.credentials ?? []).flatMap((name, index) => {
    const path = ['delivery', 'credentials', index];
    if (OF_ONE_REQUEST.test(name) || /^host$/i.test(name))
      return [{ path, problem: `cannot name ${name}, which is about one request, and not about who sends it` }];
    if (clientFields([[name, '']], route).length > 0) return [];
    return [{ path, problem: `cannot name ${name}: ${whyNotSaid(name, route)}` }];
  });
}

/** A form's field is what the client's header says, or the service's; from some headers neither reaches us. */
function fieldsOfNothing(route: Route): Contradiction[] {
  const { framing } = route.delivery;
  if (framing.kind !== 'multipart') return [];
  const copied = (route.authorize.forwardAuth?.copyHeaders ?? []).map((name) => name.toLowerCase());
  return framing.fieldsFromHeaders.flatMap(([field, name]) => {
    if (copied.includes(name.toLowerCase()) || clientFields([[name, '']], route).length > 0) return [];
    const path = ['delivery', 'framing', 'fields_from_headers', field];
    return [{ path, problem: `cannot be taken from ${name}: ${whyNotSaid(name, route)}` }];
  });
}

function whyNotSaid(name: string, route: Route): string {
  if (clientFields([[name, '']], { ...route, passesUnderscores: true }).length > 0)
    return 'fields with "_" in their names are dropped unless `headers.underscores` is pass';
  if (namesOtherTarget(fieldKey(name)))
    return 'fields that name another target are dropped unless `headers.original_url` is trust';
  return 'clients cannot say it here; name it in `copy_headers` of `authorize.forward_auth`, whose service may';
}

function nobodyToAsk({ authorize, bindTo }: Route): Contradiction[] {
  if (authorize.forwardAuth) return [];
  const against = ['authorize', 'forward_auth'];
  const missing = 'is set without a `forward_auth` that could be asked';
  return [
    ...(authorize.recheck ? [{ path: ['authorize', 'recheck'], problem: missing }] : []),
    ...(bindTo === 'principal'
      ? [
          {
            path: ['bind_to'],
            against,
            problem: 'cannot be principal without `authorize.forward_auth`, which names it',
          },
        ]
      : []),
  ];
}
