import { Fault } from '../model/fault.js';
import { json, methodNotAllowed, problem, type AdminAnswer, type AdminRequest } from './admin-answer.js';

/** Where an operator sends a node away. */
export interface DrainDesk {
  /** What it says is told to the operator as it is, in JSON. */
  begin(move: boolean): Promise<object>;
  state(): Promise<object>;
}

/** `/drain`: POST begins, with `?move=true` also to give the uploads to other nodes; GET tells how far it is. */
export async function answerAtDrain(desk: DrainDesk, request: AdminRequest): Promise<AdminAnswer> {
  if (request.method === 'GET' || request.method === 'HEAD') return json(200, await desk.state());
  if (request.method !== 'POST') return methodNotAllowed(['GET', 'HEAD', 'POST']);
  const move = request.query.get('move') ?? 'false';
  if (move !== 'true' && move !== 'false') return problem(400, 'move is true or false.');
  try {
    return json(202, await desk.begin(move === 'true'));
  } catch (fault) {
    if (!(fault instanceof Fault)) throw fault;
    return problem(503, `The other nodes could not be told: ${fault.message}. Ask again.`, { 'Retry-After': '5' });
  }
}
