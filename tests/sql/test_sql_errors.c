/* What is refused, and the sentence: each names the thing, the place, and what to do. Statements
 * and answers only; nothing of what is refused may leave a trace. */
#include "tests/sql/steps.h"

static const struct step vectors_and_conditions[] = {
    {"create virtual table d using mneme(id integer primary key, e float[2], c float[2] "
     "metric=cosine, h f16[2], b int8[2], x bit[8], lang text, year integer, tags json, "
     "+body text)",
     ""},
    {"insert into d(id,e,c,h,b,x,lang,year) values "
     "(1,'[1,2]','[1,2]','[1,2]','[1,2]','[1,0,0,0,0,0,0,0]','en',2020)",
     ""},
    {"insert into d(e) values ('')", "!d.e: the vector's text does not begin with '['"},
    {"insert into d(e) values ('abc')", "!d.e: the vector's text does not begin with '['"},
    {"insert into d(e) values ('[1]')", "!d.e: the vector has 1 elements, the column 2"},
    {"insert into d(e) values ('[1,2,3]')", "!d.e: the vector has 3 elements, the column 2"},
    {"insert into d(e) values ('[1,2')", "!d.e: the array does not end with the text"},
    {"insert into d(e) values ('[1,2] x')", "!d.e: the array does not end with the text"},
    {"insert into d(e) values ('[1,\"a\"]')", "!d.e: element 1 (byte 3 of the text) is no f32"},
    {"insert into d(e) values ('[1,null]')", "!d.e: element 1 (byte 3 of the text) is no f32"},
    {"insert into d(e) values ('[1,nan]')", "!d.e: element 1 (byte 3 of the text) is no f32"},
    {"insert into d(e) values ('[1,1e999]')", "!d.e: element 1 (byte 3 of the text) is no f32"},
    {"insert into d(e) values ('[1,1e39]')", "!d.e: element 1 (byte 3 of the text) is no f32"},
    {"insert into d(e) values (x'')", "!d.e: the blob has 0 bytes; a vector of 2 x f32 has 8"},
    {"insert into d(e) values (x'00000000')",
     "!d.e: the blob has 4 bytes; a vector of 2 x f32 has 8"},
    {"insert into d(e) values (x'0000C07F00000000')",
     "!d.e: element 0 is NaN; elements must be finite"},
    {"insert into d(e) values (x'0000807F00000000')",
     "!d.e: element 0 is infinity; elements must be finite"},
    {"insert into d(e) values (5)", "!d.e: a number is no vector"},
    {"insert into d(e) values (5.5)", "!d.e: a number is no vector"},
    {"insert into d(c) values ('[0,0]')",
     "!d.c: a zero vector has no direction, which cosine needs"},
    {"insert into d(h) values ('[1,70000]')",
     "!d.h: element 1 is 70000, beyond f16's 65,504: scale the vector"},
    {"insert into d(h) values (x'007C007C')",
     "!d.h: element 0 is infinity; elements must be finite"},
    {"insert into d(b) values ('[1,200]')",
     "!d.b: element 1 is 200; i8 holds -128 to 127: scale the vector"},
    {"insert into d(b) values (x'01')",
     "!d.b: the blob has 1 bytes; a vector of 2 x i8 has 2, one of f32 4 x dim"},
    {"insert into d(x) values ('[1,0,0,0,0,0,0,2]')", "!d.x: element 7 is 2; bits are 0 or 1"},
    {"insert into d(x) values (x'0102')", "!d.x: the blob has 2 bytes; a vector of 8 x bit has 1"},
    {"update d set e = 'zz' where id = 1", "!d.e: the vector's text does not begin with '['"},
    {"select id from d where e match 'zz' and k = 1",
     "!d.e MATCH: the vector's text does not begin with '['"},
    {"select id from d where e match x'00' and k = 1",
     "!d.e MATCH: the blob has 1 bytes; a vector of 2 x f32 has 8"},
    {"select id from d where e match 5 and k = 1", "!d.e MATCH: a number is no vector"},
    {"select id from d where c match '[0,0]' and k = 1",
     "!d.c MATCH: a zero vector has no direction, which cosine needs"},
    {"select id from d where e match '[nan,0]' and k = 1",
     "!d.e MATCH: element 0 (byte 1 of the text) is no f32"},
    {"select id from d where e match x'0000C07F00000000' and k = 1",
     "!d.e MATCH: element 0 is NaN; elements must be finite"},
    {"select id from d where e match '[1,2]' and k = -1",
     "!k = '-1'; it must be a whole number from 0 to 10000"},
    {"select id from d where e match '[1,2]' and k = 1.5",
     "!k = '1.5'; it must be a whole number from 0 to 10000"},
    {"select id from d where e match '[1,2]' and k = 1.0",
     "!k = '1.0'; it must be a whole number from 0 to 10000"},
    {"select id from d where e match '[1,2]' and k = 99999999999",
     "!k = '99999999999'; it must be a whole number from 0 to 10000"},
    {"select id from d where e match '[1,2]' and k = 1e300",
     "!k = '1.0e+300'; it must be a whole number from 0 to 10000"},
    {"select id from d where e match '[1,2]' and k = 'x'",
     "!k = 'x'; it must be a whole number from 0 to 10000"},
    {"select id from d where e match '[1,2]' and k = x'31'",
     "!k = '1'; it must be a whole number from 0 to 10000"},
    {"select id from d where e match '[1,2]' and k = ''",
     "!k = ''; it must be a whole number from 0 to 10000"},
    {"select id from d where e match '[1,2]' and k < 3",
     "!d: a query takes one value of k, by =, and no other comparison of it"},
    {"select id from d where e match '[1,2]' and k between 1 and 2",
     "!d: a query takes one value of k, by =, and no other comparison of it"},
    {"select id from d where e match '[1,2]' and k = 1 and k = 2",
     "!d: a query takes one value of k, by =, and no other comparison of it"},
    {"select id from d where e match '[1,2]' and k is 2",
     "!d: a query takes one value of k, by =, and no other comparison of it"},
    {"select id from d where e match '[1,2]' and recall = 2",
     "!search: recall 2; it must be 0.5 to 1, or 0 for the default"},
    {"select id from d where e match '[1,2]' and recall = 0.1",
     "!search: recall 0.1; it must be 0.5 to 1, or 0 for the default"},
    {"select id from d where e match '[1,2]' and recall = 'x'", "!recall = 'x' is no number"},
    {"select id from d where e match '[1,2]' and recall > 0.9",
     "!d: a query takes one value of recall, by =, and no other comparison of it"},
    {"select id from d where e match '[1,2]' and exact = 'x'", "!exact = 'x' is no number"},
    {"select id from d where e match '[1,2]' and recall = null", "!recall = 'NULL' is no number"},
    {"select id from d where e match '[1,2]' and e match '[1,2]'",
     "!d: two MATCHes in one query, the second on e; search by one and join the other"},
    {"select id from d where e match '[1,2]' and c match '[1,2]'",
     "!d: two MATCHes in one query, the second on e; search by one and join the other"},
    {"select id from d where not e match '[1,2]'",
     "!MATCH needs its query from a table to its left&under AND only"},
    {"select id from d where lang match 'x'", "!d.lang is no vector&MATCH takes one"},
    {"select id from d where id match 'x'", "!d.id is no vector&MATCH takes one"},
    {"select id from d where d match 'x'", "!d.command is no vector&MATCH takes one"},
    {"select id from d where distance match 'x'",
     "!d.distance is no vector&MATCH takes one"},
    {"select e match '[1,2]' from d",
     "!MATCH needs its query from a table to its left&under AND only"},
    {"select id from d where body match 'x'", "!d.body is no vector&MATCH takes one"},
    {"select id from d where e match '[1,2]' and k = 1 and lang like 'e%'",
     "!d: a condition on lang cannot be checked inside the search, so that k = would give "
     "too few rows; use ORDER BY distance LIMIT instead of k"},
    {"select id from d where e match '[1,2]' and k = 1 and lang glob 'e*'",
     "!d: a condition on lang cannot be checked inside the search, so that k = would give "
     "too few rows; use ORDER BY distance LIMIT instead of k"},
    {"select id from d where e match '[1,2]' and k = 1 and lang = 'EN' collate nocase",
     "!d: a condition on lang cannot be checked inside the search, so that k = would give "
     "too few rows; use ORDER BY distance LIMIT instead of k"},
    {"select id from d where e match '[1,2]' and k = 1 and body = 'x'",
     "!d: a condition on body cannot be checked inside the search, so that k = would give "
     "too few rows; use ORDER BY distance LIMIT instead of k"},
    {"select id from d where e match '[1,2]' and k = 1 and e = x'00'",
     "!d: a condition on e cannot be checked inside the search, so that k = would give too "
     "few rows; use ORDER BY distance LIMIT instead of k"},
    {"select id from d where e match '[1,2]' and k = 1 and lang is not 'en'",
     "!d: a condition on lang cannot be checked inside the search, so that k = would give "
     "too few rows; use ORDER BY distance LIMIT instead of k"},
    {"select id from d where e match '[1,2]' and k = 1 and distance = 2",
     "!d: a condition on distance cannot be checked inside the search, so that k = would "
     "give too few rows; use ORDER BY distance LIMIT instead of k"},
    {"select id from d where e match '[1,2]' and k = 1 and distance <> 2",
     "!d: a condition on distance cannot be checked inside the search, so that k = would "
     "give too few rows; use ORDER BY distance LIMIT instead of k"},
    {"select id from d where e match '[1,2]' and distance < 'x'",
     "!the distance is compared with 'x', no number"},
    {"select id from d where e match '[1,2]' and json_contains(lang, 1, 2)",
     "!wrong number of arguments to function json_contains()"},
    {"select id from d where k = 1", "!d: a condition on k needs a MATCH on a vector column"},
    {"select id from d where lang = 'en' and recall = 1",
     "!d: a condition on recall needs a MATCH on a vector column"},
    {"select id from d where distance < 3",
     "!d: a condition on distance needs a MATCH on a vector column"},
    {"insert into d(d) values('expire')", "!d: no column is TTL, so that no row expires"},
    {"insert into d(d) values('x')",
     "!d: there is no command 'x'; there is expire. Folding, rebuilding and the rest are "
     "functions: mneme_fold('d')"},
    {"insert into d(k) values(3)", "!d.k is for queries beside a MATCH; no row has one"},
    {"insert into d(distance, e) values(3, '[1,1]')",
     "!d.distance is for queries beside a MATCH; no row has one"},
    {"update d set distance = 3", "!d.distance is for queries beside a MATCH; no row has one"},
    {"update d set k = 3", "!d.k is for queries beside a MATCH; no row has one"},
    {"alter table d add column z", "!virtual tables may not be altered"},
    {"alter table d drop column lang", "!cannot drop column from virtual table \"d\""},
    {"alter table d rename column lang to l2", "!cannot rename columns of virtual table \"d\""},
    {"create index di on d(lang)", "!virtual tables may not be indexed"},
    {"create trigger dt after insert on d begin select 1; end",
     "!cannot create triggers on virtual tables"},
};

static const struct step declarations[] = {
    {"create virtual table t using mneme",
     "!t: the table has no vector column; declare one, as embedding float[384]"},
    {"create virtual table t using mneme()",
     "!t: the table has no vector column; declare one, as embedding float[384]"},
    {"create virtual table t using mneme(id integer primary key)",
     "!t: the table has no vector column; declare one, as embedding float[384]"},
    {"create virtual table t using mneme(e)",
     "!t: the table has no vector column; declare one, as embedding float[384]"},
    {"create virtual table t using mneme(e float)",
     "!t: the table has no vector column; declare one, as embedding float[384]"},
    {"create virtual table t using mneme(e float[0])",
     "!t: column 'e': the dimension in 'e float[0]' must be 1 to 16384, as float[384]"},
    {"create virtual table t using mneme(e float[-3])",
     "!t: column 'e': the dimension in 'e float[-3]' must be 1 to 16384, as float[384]"},
    {"create virtual table t using mneme(e float[x])",
     "!t: column 'e': the dimension in 'e float[x]' must be 1 to 16384, as float[384]"},
    {"create virtual table t using mneme(e float[2.5])",
     "!t: column 'e': the dimension in 'e float[2.5]' must be 1 to 16384, as float[384]"},
    {"create virtual table t using mneme(e float[99999])",
     "!t: column 'e': the dimension in 'e float[99999]' must be 1 to 16384, as float[384]"},
    {"create virtual table t using mneme(e float[2)", "!unrecognized token: \"[2)\""},
    {"create virtual table t using mneme(e bit[7])",
     "!t: column 'e': 7 bits; it must be a multiple of 8"},
    {"create virtual table t using mneme(e double[7])",
     "!t: 'e double[7]' is no column: it must be a name and a type, as year INTEGER or "
     "embedding float[384]"},
    {"create virtual table t using mneme(e float[2] metric=foo)",
     "!t: column 'e': metric 'foo'; it must be l2, cosine, ip, l1 or hamming"},
    {"create virtual table t using mneme(e float[2] metric=hamming)",
     "!t: column 'e': hamming goes with bit vectors and with nothing else"},
    {"create virtual table t using mneme(e bit[8] metric=l1)",
     "!t: column 'e': hamming goes with bit vectors and with nothing else"},
    {"create virtual table t using mneme(e bit[8] metric=l2)",
     "!t: column 'e': hamming goes with bit vectors and with nothing else"},
    {"create virtual table t using mneme(e float[2] metric)",
     "!t: column 'e': 'metric' in 'e float[2] metric' is no option word=value"},
    {"create virtual table t using mneme(e float[2] metric=)",
     "!t: column 'e': 'metric' in 'e float[2] metric=' is no option word=value"},
    {"create virtual table t using mneme(e float[2] colour=red)",
     "!t: column 'e': there is no option 'colour'"},
    {"create virtual table t using mneme(e float[2] recall=7)",
     "!t: column 'e': recall '7'; it must be 0.5 to 1"},
    {"create virtual table t using mneme(e float[2] recall=x)",
     "!t: column 'e': recall 'x'; it must be 0.5 to 1"},
    {"create virtual table t using mneme(e float[2] bits=9)",
     "!t: column 'e': bits '9'; it must be 1 to 8"},
    {"create virtual table t using mneme(e float[2] rerank=maybe)",
     "!t: column 'e': rerank 'maybe'; it must be copy, rows or none"},
    {"create virtual table t using mneme(e float[2], e float[3])", "!t: column 'e' stands twice"},
    {"create virtual table t using mneme(e float[2], E text)", "!t: column 'E' stands twice"},
    {"create virtual table t using mneme(e float[2], k integer)",
     "!t: duplicate column name: k; the names t, k, distance, recall and exact are those of "
     "hidden columns"},
    {"create virtual table t using mneme(e float[2], distance real)",
     "!t: duplicate column name: distance; the names t, k, distance, recall and exact are "
     "those of hidden columns"},
    {"create virtual table t using mneme(e float[2], t text)",
     "!t: duplicate column name: t; the names t, k, distance, recall and exact are those of "
     "hidden columns"},
    {"create virtual table t using mneme(e float[2], id text)", "!t: column 'id' stands twice"},
    {"create virtual table t using mneme(e float[2], id text primary key)",
     "!t: column 'id': the primary key must be INTEGER PRIMARY KEY; for texts, let it be, "
     "and declare a column TEXT NOT NULL UNIQUE"},
    {"create virtual table t using mneme(i integer primary key, j integer primary key, e "
     "float[2])",
     "!t: two columns are PRIMARY KEY: 'j' is the second"},
    {"create virtual table t using mneme(e float[2], a text default 'x')",
     "!t: column 'a': 'default' is not known; behind the type may stand NOT NULL, UNIQUE, "
     "PRIMARY KEY, PARTITION KEY, TTL"},
    {"create virtual table t using mneme(e float[2], a text check (a > 1))",
     "!t: column 'a': 'check' is not known; behind the type may stand NOT NULL, UNIQUE, "
     "PRIMARY KEY, PARTITION KEY, TTL"},
    {"create virtual table t using mneme(e float[2], a text collate nocase)",
     "!t: column 'a': 'collate' is not known; behind the type may stand NOT NULL, UNIQUE, "
     "PRIMARY KEY, PARTITION KEY, TTL"},
    {"create virtual table t using mneme(e float[2], a text references d)",
     "!t: column 'a': 'references' is not known; behind the type may stand NOT NULL, UNIQUE, "
     "PRIMARY KEY, PARTITION KEY, TTL"},
    {"create virtual table t using mneme(e float[2], a text ttl)",
     "!t: column 'a': TTL is a number of seconds since 1970: declare it INTEGER"},
    {"create virtual table t using mneme(e float[2], a integer ttl, b integer ttl)",
     "!t: two columns are TTL: 'b' is the second"},
    {"create virtual table t using mneme(e float[2], +b float[2])",
     "!t: '+b float[2]' is no column: it must be a name and a type, as year INTEGER or "
     "embedding float[384]"},
    {"create virtual table t using mneme(e float[2], + )",
     "!t: '+': a name is missing behind the +"},
    {"create virtual table t using mneme(e float[2], \"a)", "!unrecognized token: \"\"a)\""},
    {"create virtual table t using mneme(e float[2] not null)",
     "!t: column 'e': 'not' in 'e float[2] not null' is no option word=value"},
    {"create virtual table mneme_t using mneme(e float[2])",
     "!the name of the collection, 'mneme_t', starts with mneme_ or sqlite_, which are "
     "reserved"},
    {"create virtual table temp.t using mneme(e float[2])",
     "!t: temp.t: tables of Mneme can be in the main database only; open 'temp' itself"},
    {"create virtual table t using mneme(e float[2], a text primary key)",
     "!t: column 'a': the primary key must be INTEGER PRIMARY KEY; for texts, let it be, and "
     "declare a column TEXT NOT NULL UNIQUE"},
    {"create virtual table t using mneme(e float[2], a text partition)",
     "!t: column 'a': 'partition' is not known; behind the type may stand NOT NULL, UNIQUE, "
     "PRIMARY KEY, PARTITION KEY, TTL"},
    {"create virtual table t using mneme(e float[2], a integer generated always as (1))",
     "!t: column 'a': 'generated' is not known; behind the type may stand NOT NULL, UNIQUE, "
     "PRIMARY KEY, PARTITION KEY, TTL"},
    {"create virtual table t using mneme([e] float[2], [a] text)",
     "!t: '[e] float[2]' does not begin with a column's name of at most 127 bytes; an "
     "unusual one stands in double quotes"},
    {"create virtual table t using mneme(e float[2], primary key(e))",
     "!t: column 'primary': 'key' is not known; behind the type may stand NOT NULL, UNIQUE, "
     "PRIMARY KEY, PARTITION KEY, TTL"},
    {"create virtual table t using mneme(e float[2], unique(e))", "!t: near \"(\": syntax error"},
    {"create virtual table t using mneme(e float[2], +id text)", "!t: column 'id' stands twice"},
    {"create virtual table t using mneme(e float[2], id integer)", "!t: column 'id' stands twice"},
    {"create virtual table t using mneme(+e text unique, f float[2])",
     "!t: column 'e': an auxiliary column is only kept; without the + it may be UNIQUE, "
     "PARTITION KEY or TTL"},
    {"create virtual table t using mneme(e float[2], \"a\"\"b\" text)",
     "!t: '\"a\"\"b\" text' is no column: it must be a name and a type, as year INTEGER or "
     "embedding float[384]"},
    {"create virtual table t using mneme(\"e\"\"b\" float[2])",
     "!t: '\"e\"\"b\" float[2]' is no column: it must be a name and a type, as year INTEGER "
     "or embedding float[384]"},
    {"create virtual table \"t\"\"x\" using mneme(e float[2])",
     "!the name of the collection has a quote or control character at byte 1"},
    {"create virtual table \"\" using mneme(e float[2])", "!the name of the collection is empty"},
};

static const struct step functions[] = {
    {"create virtual table d using mneme(id integer primary key, e float[2], c float[2] "
     "metric=cosine, h f16[2], b int8[2], x bit[8], lang text, year integer, tags json, "
     "+body text)",
     ""},
    {"insert into d(id,e,c,h,b,x,lang,year) values "
     "(1,'[1,2]','[1,2]','[1,2]','[1,2]','[1,0,0,0,0,0,0,0]','en',2020)",
     ""},
    {"create table o(id integer primary key, e blob, lang text, year integer)", ""},
    {"insert into o values (1,x'0000803F00000040','en',2020),(2,'[3,4]','de',2021)", ""},
    {"create table nokey(a text primary key, e)", ""},
    {"create table wr(a integer, e, primary key(a)) without rowid", ""},
    {"create view vw as select * from o", ""},
    {"select mneme_index()", "!wrong number of arguments to function mneme_index()"},
    {"select mneme_index('o')", "!wrong number of arguments to function mneme_index()"},
    {"select mneme_index('nope','e','dim=2')", "!collection 'nope': there is no table 'nope'"},
    {"select mneme_index('o','nope','dim=2')", "!collection 'o': table 'o' has no column 'nope'"},
    {"select mneme_index('nope','e')", "!collection 'nope': there is no table 'nope'"},
    {"select mneme_index('o','nope')", "!collection 'o': table 'o' has no column 'nope'"},
    {"select mneme_index('vw','e')",
     "!collection 'vw': 'vw' is a view; only an ordinary table can be indexed"},
    {"select mneme_index('o','lang')",
     "!mneme_index('o', 'lang'): no vector there tells the dimension; say it: 'dim=384'"},
    {"select mneme_index(null,'e')",
     "!the table's name is missing; call it as mneme_index('docs', 'embedding', 'dim=384 "
     "metric=cosine')"},
    {"select mneme_index('o',null)",
     "!the column's name is missing; call it as mneme_index('docs', 'embedding', 'dim=384 "
     "metric=cosine')"},
    {"select mneme_index('o','e',5)", "!mneme_index: '5' is no option name=value"},
    {"select mneme_index('o','e','dim')", "!mneme_index: 'dim' is no option name=value"},
    {"select mneme_index('o','e','dim=')", "!mneme_index: dim ''; it must be 1 to 16384"},
    {"select mneme_index('o','e','dim=x')", "!mneme_index: dim 'x'; it must be 1 to 16384"},
    {"select mneme_index('o','e','dim=0')", "!mneme_index: dim '0'; it must be 1 to 16384"},
    {"select mneme_index('o','e','colour=red')", "!mneme_index: there is no option 'colour'"},
    {"select mneme_index('o','e','dim=2 metric=foo')",
     "!mneme_index: metric 'foo'; it must be l2, cosine, ip, l1 or hamming"},
    {"select mneme_index('o','e','dim=2 metric=l1')",
     "!mneme_index: metric l1 has no index; order by vec_distance_l1() instead, or make a "
     "table USING mneme, which scans for it"},
    {"select mneme_index('o','e','dim=2 type=double')",
     "!mneme_index: type 'double'; it must be float, float16, bfloat16, int8 or bit"},
    {"select mneme_index('o','e','dim=2 filter=nope')",
     "!collection 'o': table 'o' has no column 'nope'"},
    {"select mneme_index('o','e','dim=2 filter=e')",
     "!collection 'o': column 'e' holds the vectors and is no attribute"},
    {"select mneme_index('o','e','dim=2 filter=id')",
     "!collection 'o': column 'id' is the key of table 'o': it is the id of each row, and "
     "neither a vector nor an attribute"},
    {"select mneme_index('o','e','dim=2 filter=lang,lang')",
     "!collection 'o': attribute 'lang' stands twice"},
    {"select mneme_index('o','e','dim=2 recall=9')",
     "!mneme_index: recall '9'; it must be 0.5 to 1"},
    {"select mneme_index('o','e','dim=2 name=\"')",
     "!mneme_index: the name has 0 bytes; 1 to 127 may be"},
    {"select mneme_index('d','e','dim=2')",
     "!collection 'd.e': 'd' is a virtual table; only an ordinary table can be indexed"},
    {"select mneme_index('d_rows','e','dim=2')",
     "!mneme_index: 'd_rows' holds the rows of a table USING mneme, whose vector columns "
     "have their indexes already"},
    {"select mneme_index('sqlite_master','sql','dim=2')",
     "!the name of the collection, 'sqlite_master', starts with mneme_ or sqlite_, which are "
     "reserved"},
    {"select mneme_index('mneme_meta','value','dim=2')",
     "!the name of the collection, 'mneme_meta', starts with mneme_ or sqlite_, which are "
     "reserved"},
    {"select mneme_index('nokey','e','dim=2')",
     "!collection 'nokey': table 'nokey' has no INTEGER PRIMARY KEY, and VACUUM renumbers "
     "the rowids of such tables; copy it into one that has: CREATE TABLE new(id INTEGER "
     "PRIMARY KEY, ...); INSERT INTO new SELECT rowid, * FROM \"nokey\""},
    {"select mneme_index('wr','e','dim=2')",
     "!collection 'wr': table 'wr' has no INTEGER PRIMARY KEY, and VACUUM renumbers the "
     "rowids of such tables; copy it into one that has: CREATE TABLE new(id INTEGER PRIMARY "
     "KEY, ...); INSERT INTO new SELECT rowid, * FROM \"wr\""},
    {"select mneme_index('vw','e','dim=2')",
     "!collection 'vw': 'vw' is a view; only an ordinary table can be indexed"},
    {"select mneme_index('main.o','e','dim=2')",
     "!collection 'main.o': there is no table 'main.o'"},
    {"select mneme_unindex('nope')", "!mneme_unindex: 'nope' is not indexed"},
    {"select mneme_unindex('d')", "!mneme_unindex: 'd' is a table USING mneme: DROP TABLE it"},
    {"select mneme_unindex('o','nope')", "!mneme_unindex: 'o.nope' is not indexed"},
    {"select mneme_stats('nope')",
     "!no collection 'nope' among its&; check the name, or create it"},
    {"select mneme_stats()", "!wrong number of arguments to function mneme_stats()"},
    {"select mneme_stats(null)", "!mneme_stats: the name of the table or collection is missing"},
    {"select mneme_fold('nope')", "!no collection 'nope' among its&; check the name, or create it"},
    {"select mneme_recall('nope',3)",
     "!no collection 'nope' among its&; check the name, or create it"},
    {"select mneme_recall('o',-1)", "!mneme_recall: the sample must be 1 to 10000"},
    {"select mneme_recall('o','x')", "!mneme_recall: the sample must be 1 to 10000"},
    {"select mneme_explain('select nope')", "!no such column: nope"},
    {"select mneme_explain(null)", "!mneme_explain: the statement is missing"},
    {"select mneme_explain('insert into o values(5,null,null,null)')",
     "!mneme_explain: the statement is empty, or writes"},
    {"select mneme_open('x=1')", "!mneme_open: 'x=1'"},
};

static const struct step knn[] = {
    {"create virtual table d using mneme(id integer primary key, e float[2], c float[2] "
     "metric=cosine, h f16[2], b int8[2], x bit[8], lang text, year integer, tags json, "
     "+body text)",
     ""},
    {"insert into d(id,e,c,h,b,x,lang,year) values "
     "(1,'[1,2]','[1,2]','[1,2]','[1,2]','[1,0,0,0,0,0,0,0]','en',2020)",
     ""},
    {"create table o(id integer primary key, e blob, lang text, year integer)", ""},
    {"insert into o values (1,x'0000803F00000040','en',2020),(2,'[3,4]','de',2021)", ""},
    {"create table nokey(a text primary key, e)", ""},
    {"create table wr(a integer, e, primary key(a)) without rowid", ""},
    {"create view vw as select * from o", ""},
    {"select mneme_index('o','e','dim=2 filter=lang')", "~o:"},
    {"select id from knn()",
     "!knn: the argument 'collection' is missing; call it as knn('docs', :vector, 10)"},
    {"select id from knn('o')",
     "!knn: the argument 'query' is missing; call it as knn('docs', :vector, 10)"},
    {"select id from knn('o','[1,2]',-1)", "!knn: k is -1; it must be 0 to 10000"},
    {"select id from knn('o','[1,2]',1.5)", "!knn: k = '1.5' is no whole number"},
    {"select id from knn('o','[1,2]','x')", "!knn: k = 'x' is no whole number"},
    {"select id from knn('nope','[1,2]',1)",
     "!no collection 'nope' among its&; check the name, or create it"},
    {"select id from knn(null,'[1,2]',1)", "!knn: the collection's name is NULL"},
    {"select id from knn('o','[1,2]',1,'nope = 1')", "!where 'nope = 1': no such column: nope"},
    {"select id from knn('o','[1,2]',1,'lang = ')", "!where 'lang = ': near \")\": syntax error"},
    {"select id from knn('o','[1,2]',1,'lang = ''en'' ; drop table o')",
     "!where 'lang = 'en' ; drop table o': near \";\": syntax error"},
    {"select id from knn('o','[1,2]',1,'lang = :x')",
     "!where 'lang = :x': there is a parameter in it, which has no value here: write the "
     "value, as with format('lang = %Q', :lang)"},
    {"select id from knn('o','[1,2]',1,'lang = ''en''', 2, 3, 4)",
     "!too many arguments on knn() - max 6"},
    {"select id from knn('o','[1,2]',1) where recall = 5",
     "!search: recall 5; it must be 0.5 to 1, or 0 for the default"},
    {"select id from knn('o','[1,2]',1) where recall = 'x'", "!knn: recall = 'x' is no number"},
    {"select id from knn('o','[1,2]',1) where k = 2", "!knn: 'k' is an argument: it is given once"},
    {"select id from knn('o','[1,2]') where k > 2", "!knn: 'k' is an argument: it is given once"},
    {"select id from knn('o','[1,2]') where exact is null",
     "!knn: 'exact' is an argument: it is given once"},
    {"select id from mmr('o','[1,2]') where k < 2", "!mmr: 'k' is an argument: it is given once"},
    {"select id from knn('o','[1,2]') where k = 1 limit 5 offset 0", "1"},
    {"select id from knn('o','[1,2,3]',1)", "!knn('o'): the vector has 3 elements, the column 2"},
};

#define REFUSED(steps)                                                                             \
    do {                                                                                           \
        sqlite3 *db = steps_open(test_path("app.db"));                                             \
        STEPS(db, steps);                                                                          \
        STEP(db, "SELECT mneme_verify()", "ok");                                                   \
        steps_close(db);                                                                           \
    } while (0)

TEST(malformed_vectors_and_conditions_are_refused_with_a_sentence)
{
    REFUSED(vectors_and_conditions);
}

TEST(malformed_tables_are_refused_with_a_sentence_and_leave_nothing)
{
    REFUSED(declarations);
    sqlite3 *db = steps_open(test_path("app.db"));
    STEP(db, "SELECT count(*) FROM sqlite_master WHERE name LIKE 't%'", "0");
    steps_close(db);
}

TEST(functions_refuse_with_a_sentence)
{
    REFUSED(functions);
}

TEST(knn_refuses_with_a_sentence)
{
    REFUSED(knn);
}

TEST(a_taken_name_and_an_end_that_is_no_time_are_refused)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    static const struct step steps[] = {
        {"CREATE TABLE d_rows(x)", ""},
        {"CREATE VIRTUAL TABLE d USING mneme(e float[2])",
         "!d: table \"d_rows\" already exists; the rows of d are to be there: rename or drop it"},
        {"DROP TABLE d_rows", ""},
        {"CREATE VIRTUAL TABLE d USING mneme(e float[2], until INTEGER TTL)", ""},
        {"INSERT INTO d(e, until) VALUES ('[1,2]', '2020-01-01')",
         "!d.until: a row's end is told in seconds since 1970"},
        {"INSERT INTO d(e, until) VALUES ('[1,2]', x'00')", "!d.until: a row's end"},
        {"INSERT INTO d(e, until) VALUES ('[1,2]', '12'), ('[1,2]', 1e11), ('[1,2]', NULL)", ""},
        {"UPDATE d SET until = 'never' WHERE id = 3", "!d.until: a row's end"},
        {"SELECT id FROM d", "2 3"},
    };
    STEPS(db, steps);
    steps_close(db);
}

/* What a foreign hand did to a table is told, and DROP TABLE still works. */
TEST(tables_without_their_rows_are_refused_and_can_be_dropped)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    static const struct step steps[] = {
        {"CREATE VIRTUAL TABLE d USING mneme(id INTEGER PRIMARY KEY, e float[2], lang TEXT)", ""},
        {"INSERT INTO d VALUES (1, '[1,2]', 'en')", ""},
        {"DROP TABLE d_rows", ""},
        {"SELECT id FROM d WHERE e MATCH '[1,2]' AND k = 1", "!d_rows&DROP TABLE d"},
        {"SELECT id FROM d", "!no such table: main.d_rows&DROP TABLE d"},
        {"INSERT INTO d VALUES (2, '[1,2]', 'en')", "!no such table: main.d_rows&DROP TABLE d"},
        {"SELECT mneme_stats('d')", "!d_rows&gone"},
        {"DROP TABLE d", ""},
        {"SELECT count(*) FROM mneme_collections", "0"},
        {"CREATE VIRTUAL TABLE d USING mneme(id INTEGER PRIMARY KEY, e float[2], lang TEXT)", ""},
        {"INSERT INTO d VALUES (1, '[1,2]', 'en')", ""},
        {"ALTER TABLE d_rows DROP COLUMN lang", ""},
        {"SELECT id FROM d WHERE e MATCH '[1,2]' AND k = 1", "!no such column&lang&restore"},
        {"SELECT lang FROM d", "!no such column&DROP TABLE d"},
        {"ALTER TABLE d_rows ADD COLUMN lang TEXT", ""},
        {"SELECT id FROM d WHERE e MATCH '[1,2]' AND k = 1 AND lang IS NULL", "1"},
        {"ALTER TABLE d_rows RENAME COLUMN e TO f", ""},
        {"SELECT e FROM d", "!no such column&DROP TABLE d"},
        {"ALTER TABLE d_rows RENAME COLUMN f TO e", ""},
        {"SELECT id FROM d WHERE e MATCH '[1,2]' AND k = 1", "1"},
        {"DROP TABLE d", ""},
        {"SELECT mneme_verify()", "ok"},
    };
    STEPS(db, steps);
    steps_close(db);
}

TEST_MAIN
