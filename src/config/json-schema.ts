import * as z from 'zod';
import type { SettingPath } from './errors.js';
import { schema } from './schema.js';

/** The part of JSON Schema that this configuration uses. */
export interface JsonSchema {
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly default?: unknown;
  /** Unit or form of a value, for the documentation; not part of JSON Schema. */
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
  // `origin` may come from a flag or a variable, so a file without it is valid.
  return { ...generated, description: 'Configuration of rufh-proxy.', required: [] };
}

/** The known keys at a path of the file, for suggestions when a key is misspelt. */
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

/** The alternative forms of a setting. A value with a unit counts as a single form. */
export function alternatives(form: JsonSchema): readonly JsonSchema[] {
  return form.anyOf && form.unit === undefined ? form.anyOf.flatMap(alternatives) : [form];
}

/** Removes settings without a value, except where `null` is allowed. */
export function withoutEmpty(settings: unknown, form: JsonSchema = jsonSchema()): unknown {
  const forms = alternatives(form);
  if (Array.isArray(settings)) {
    const items = { anyOf: forms.flatMap((each) => (each.items ? [each.items] : [])) };
    return settings.map((item) => withoutEmpty(item, items));
  }
  if (typeof settings !== 'object' || settings === null) return settings;
  const kept = Object.entries(settings).flatMap(([key, value]: [string, unknown]) => {
    const inner = { anyOf: forms.flatMap((each) => each.properties?.[key] ?? []) };
    const isLeftOut = value === null && inner.anyOf.length > 0 && !allowsNull(inner);
    return isLeftOut ? [] : [[key, withoutEmpty(value, inner)] as const];
  });
  return Object.fromEntries(kept);
}

function allowsNull(form: JsonSchema): boolean {
  return alternatives(form).some(({ type }) => type === 'null' || (Array.isArray(type) && type.includes('null')));
}
