/** Which public exports have no docstring: the build fails on them, and a test names them. */
import { dirname, join, relative } from "node:path";
import ts from "typescript";

/** Members whose meaning the language gives them. */
const SELF_EXPLAINING = new Set(["constructor", "__constructor", "[Symbol.dispose]"]);

function summaryOf(symbol, checker) {
  return ts.displayPartsToString(symbol.getDocumentationComment(checker)).trim();
}

function declaredAt(symbol, root) {
  const node = symbol.declarations?.[0];
  if (!node) return "";
  const file = node.getSourceFile();
  const { line } = file.getLineAndCharacterOfPosition(node.getStart());
  return ` (${relative(root, file.fileName)}:${line + 1})`;
}

/** A function's body, where it has one, says whether it throws on purpose. */
function throwsOf(symbol) {
  let throws = false;
  const visit = (node) => {
    // What an inner function throws is that function's affair.
    if (ts.isThrowStatement(node)) throws = true;
    else if (!ts.isFunctionLike(node)) ts.forEachChild(node, visit);
  };
  for (const declaration of symbol.declarations ?? [])
    if (ts.isFunctionDeclaration(declaration) && declaration.body) ts.forEachChild(declaration.body, visit);
  return throws;
}

/** A method of a class or an interface that everyone may call. */
function isPublicMethod(declaration) {
  if (!ts.isMethodDeclaration(declaration) && !ts.isMethodSignature(declaration)) return false;
  return !(ts.getCombinedModifierFlags(declaration) & (ts.ModifierFlags.Private | ts.ModifierFlags.Protected));
}

/**
 * The public exports of a module, and the public methods of exported classes and interfaces, that lack a summary; and
 * functions that throw in their own body and do not say so (`@throws`, or "throws" in the summary). A method of a class
 * that implements an interface takes the interface's words where it has none of its own, as editors show it.
 * @param {string} entry path of the module
 * @returns {string[]} one line each: name, what is missing, file and line
 */
export function missingDocstrings(entry) {
  const root = dirname(dirname(entry));
  const { config } = ts.readConfigFile(join(root, "tsconfig.json"), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root);
  const program = ts.createProgram([entry], { ...options, noEmit: true });
  const checker = program.getTypeChecker();
  const source = program.getSourceFile(entry);
  const moduleSymbol = source && checker.getSymbolAtLocation(source);
  if (!moduleSymbol) throw new Error(`docstrings: ${entry} is not a module with exports`);

  const missing = [];
  for (const exported of checker.getExportsOfModule(moduleSymbol)) {
    const symbol = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported;
    const where = declaredAt(symbol, root);
    const summary = summaryOf(symbol, checker);
    const tags = symbol.getJsDocTags(checker).map((tag) => tag.name);
    if (!summary) missing.push(`${exported.name}: no docstring${where}`);
    else if (throwsOf(symbol) && !tags.includes("throws") && !/throws|rejects/i.test(summary))
      missing.push(`${exported.name}: throws and does not say what (@throws)${where}`);
    if (!(symbol.flags & (ts.SymbolFlags.Class | ts.SymbolFlags.Interface))) continue;
    for (const member of checker.getDeclaredTypeOfSymbol(symbol).getProperties()) {
      const declaration = member.declarations?.[0];
      if (!declaration || !isPublicMethod(declaration) || SELF_EXPLAINING.has(member.name)) continue;
      if (member.name.startsWith("__@") || !declaration.getSourceFile().fileName.startsWith(join(root, "src")))
        continue;
      if (!summaryOf(member, checker))
        missing.push(`${exported.name}.${member.name}: no docstring${declaredAt(member, root)}`);
    }
  }
  return missing.sort();
}
