import { Fault } from '../model/fault.js';
import type { KeyRotation } from '../uploads/key-rotation.js';
import { type AdminResponse, json, problem } from './admin-http.js';

const PAGE_SIZE = 500;

/** The steps of a rotation, by the names of their operations. */
export type KeyStep = 'addKey' | 'resealPage' | 'dropOlderKeys';

/** Runs one step of a rotation. */
export async function respondToKeys(
  rotation: KeyRotation,
  step: KeyStep,
  query: URLSearchParams,
): Promise<AdminResponse> {
  try {
    return await STEPS[step](rotation, query);
  } catch (fault) {
    if (!(fault instanceof Fault)) throw fault;
    return problem(503, `${fault.message}. Every step can be repeated.`, { 'Retry-After': '5' });
  }
}

const STEPS: Readonly<Record<KeyStep, (rotation: KeyRotation, query: URLSearchParams) => Promise<AdminResponse>>> = {
  addKey: async (rotation) => json(201, await rotation.addKey()),
  resealPage: async (rotation, query) =>
    json(200, await rotation.resealPage(query.get('after') ?? undefined, PAGE_SIZE)),
  dropOlderKeys: async (rotation) => {
    const result = await rotation.dropOlderKeys();
    return json(result.kind === 'in-use' ? 409 : 200, result);
  },
};
