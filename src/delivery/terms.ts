import type { Route, Routes } from '../model/route.js';
import type { Upload } from '../model/upload.js';
import { isRepeatable, type RetryPolicy } from './retry.js';

/** The route an upload was created on; the one its target has now when the configuration was changed in between. */
export function routeOf({ route, request }: Upload, routes: Routes): Route {
  const path = request.target.split('?', 1)[0]!;
  return routes.byName(route) ?? routes.find(request.method, path);
}

export function policyOf({ request }: Upload, { delivery }: Route): RetryPolicy {
  const { retry: rules, parkOn, guarantee, method = request.method } = delivery;
  return { repeatable: isRepeatable(method, guarantee), rules, parkOn };
}
