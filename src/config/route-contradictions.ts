import type { Limits, Route } from '../model/route.js';
import type { SettingPath } from './mistake.js';

/** Settings that are right one by one, but not together or not on this machine. */
export interface Contradiction {
  readonly path: SettingPath;
  /** The other setting that is part of it, where that is in another section. */
  readonly against?: SettingPath;
  readonly problem: string;
}

/** What does not fit together in one route, with what it inherits. `path`: where the route stands; empty for the top. */
export function routeContradictions(path: SettingPath, route: Route): Contradiction[] {
  const all = [...limits(route.limits), ...times(route), ...eager(route), ...nobodyToAsk(route), ...noUploads(route)];
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
