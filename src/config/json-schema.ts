import * as z from 'zod';
import type { SettingPath } from './mistake.js';
import { schema } from './schema.js';

/** The part of JSON Schema that this configuration uses. */
export interface JsonSchema {
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly default?: unknown;
  /** Not of JSON Schema: unit or form of a value, for the documentation. */
  readonly unit?: string;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly items?: JsonSchema;
  readonly anyOf?: readonly JsonSchema[];
  readonly enum?: readonly string[];
  readonly required?: readonly string[];
}

/** The configuration as JSON Schema 2020-12, for editors. */
export function jsonSchema(): JsonSchema {
  const generated = z.toJSONSchema(schema, { io: 'input' }) as JsonSchema;
  // `origin` may come from a flag or a variable, so a file without it is no mistake.
  return { ...generated, description: 'Configuration of rufh-proxy.', required: [] };
}

/** The keys that are known at a path of the file: what a misspelt one can be compared with. */
export function knownKeys(path: SettingPath): string[] {
  let forms: readonly JsonSchema[] = [jsonSchema()];
  for (const step of path) {
    forms = forms.flatMap(alternatives).flatMap((form) => {
      const next = typeof step === 'number' ? form.items : form.properties?.[step];
      return next ? [next] : [];
    });
  }
  return [...new Set(forms.flatMap(alternatives).flatMap((form) => Object.keys(form.properties ?? {})))];
}

/** The forms a setting may have, itself if there is only one; a value with a unit is one form however it is written. */
export function alternatives(form: JsonSchema): readonly JsonSchema[] {
  return form.anyOf && form.unit === undefined ? form.anyOf.flatMap(alternatives) : [form];
}
