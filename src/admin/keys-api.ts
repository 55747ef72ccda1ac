import { Fault } from '../model/fault.js';
import type { KeyRotation } from '../uploads/key-rotation.js';
import { type AdminRequest, type AdminResponse, json, methodNotAllowed, problem } from './admin-http.js';

const PAGE_SIZE = 500;

/**
 * `/keys`: POST adds a key. `/keys/reseal`: POST seals one page of records with it, `after` the one before.
 * `/keys/older`: DELETE drops the keys that no record needs.
 */
export async function respondToKeys(rotation: KeyRotation, request: AdminRequest): Promise<AdminResponse> {
  const step = STEPS[request.path];
  if (!step) return problem(404);
  if (request.method !== step.method) return methodNotAllowed([step.method]);
  try {
    return await step.run(rotation, request);
  } catch (fault) {
    if (!(fault instanceof Fault)) throw fault;
    return problem(503, `${fault.message}. Every step can be repeated.`, { 'Retry-After': '5' });
  }
}

interface Step {
  readonly method: 'POST' | 'DELETE';
  run(rotation: KeyRotation, request: AdminRequest): Promise<AdminResponse>;
}

const STEPS: Readonly<Record<string, Step | undefined>> = {
  '/keys': { method: 'POST', run: async (rotation) => json(201, await rotation.addKey()) },
  '/keys/reseal': {
    method: 'POST',
    run: async (rotation, { query }) =>
      json(200, await rotation.resealPage(query.get('after') ?? undefined, PAGE_SIZE)),
  },
  '/keys/older': {
    method: 'DELETE',
    run: async (rotation) => {
      const result = await rotation.dropOlderKeys();
      return json(result.kind === 'in-use' ? 409 : 200, result);
    },
  },
};
