import { type Route, routeFor, type Routes } from '../model/route.js';
import { PLAIN, type Upload } from '../model/upload.js';
import { isRepeatable, type RetryPolicy } from './retry.js';

/** The route an upload was created on; the one its target has now when the configuration was changed in between. */
export function routeOf({ route, request, dialect, clientKey }: Upload, routes: Routes): Route {
  const path = request.target.split('?', 1)[0]!;
  const found = routeFor(request.method, routes.byName(route) ?? routes.find(request.method, path));
  return dialect === PLAIN ? forPlainRequests(found, clientKey !== undefined) : found;
}

/** Longer than any client needs to read an answer that it waits for. */
const PLAIN_ANSWER_MS = 60_000;

/**
 * An ordinary client is held open as long as the origin may take. Without a key of its own it cannot come back, and its
 * answer is not kept for later.
 */
function forPlainRequests(route: Route, mayComeBack: boolean): Route {
  const { delivery } = route;
  const waitMs = Math.max(delivery.waitMs, delivery.timeoutMs);
  const keepAnswerMs = mayComeBack ? delivery.keepAnswerMs : Math.min(delivery.keepAnswerMs, PLAIN_ANSWER_MS);
  return { ...route, delivery: { ...delivery, waitMs, keepAnswerMs } };
}

export function policyOf({ request }: Upload, { delivery }: Route): RetryPolicy {
  const { retry: rules, parkOn, guarantee, method = request.method } = delivery;
  return { repeatable: isRepeatable({ method, headers: request.headers }, guarantee), rules, parkOn };
}
