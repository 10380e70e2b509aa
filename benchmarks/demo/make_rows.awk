# Writes the demo task: customers' sentences and the order line each stands for, as {"prompt","completion"} rows.
#
#   awk -v folder=benchmarks/demo -f benchmarks/demo/make_rows.awk
#
# folder   where train.jsonl and eval.jsonl go
# train    rows to train on (3600);  held  rows held out (200): every held-out order is one that no training row has
# level    1: item, colour, count, city, day, one statement each
#          2 (the default): also whether it is urgent, and sentences that name a second city or day that does not count
# seed     the rows are a function of these four numbers alone
#
# Needs only POSIX awk: the random numbers are a small generator of its own (Park and Miller 1988, a = 16807,
# m = 2^31 - 1), because rand() differs between awks.

function random(n) { # 0 .. n - 1
  state = (state * 16807) % 2147483647
  return int(state / 2147483647 * n)
}

function pick(list,    parts, n) {
  n = split(list, parts, "|")
  return parts[1 + random(n)]
}

function another(list, than,    word) {
  do word = pick(list); while (word == than)
  return word
}

function fill(text) {
  gsub(/COUNT/, words[count], text)
  gsub(/COLOR/, color, text)
  gsub(/ITEM/, item, text)
  gsub(/CITY2/, city2, text)
  gsub(/CITY/, city, text)
  gsub(/DAY2/, day2, text)
  gsub(/DAY/, day, text)
  return text
}

function sentence(    text) {
  text = (level > 1 && random(4) == 0) ? pick(distracting) : pick(plain)
  text = pick(openers) fill(text)
  if (level > 1) {
    if (rush == "yes") text = text " " pick(hurried)
    else if (random(2)) text = text " " pick(relaxed)
  }
  return text
}

function answer(    text) {
  text = "count: " count ", item: " color " " item ", city: " city ", day: " day
  return level > 1 ? text ", rush: " rush : text
}

BEGIN {
  if (folder == "") { print "usage: awk -v folder=FOLDER -f make_rows.awk" > "/dev/stderr"; exit 2 }
  if (train == "") train = 3600
  if (held == "") held = 200
  if (level == "") level = 2
  state = seed == "" ? 20240229 : seed

  split("one|two|three|four|five|six|seven|eight|nine", words, "|")
  colors = "red|blue|green|black|white|yellow|purple|orange|pink|brown"
  items = "lamps|chairs|tables|candles|shirts|bags|roses|cups|clocks|rugs|bottles|boxes"
  cities = "Oslo|Paris|Madrid|Berlin|Rome|London|Dublin|Vienna|Boston|Milan|Prague|Athens|Lisbon|Chicago"
  days = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"

  openers = "|Hi, |Hello, |Good morning, |Hi there, |Hello again, "
  plain = "could you send COUNT COLOR ITEM to CITY on DAY?" \
    "|we need COUNT COLOR ITEM in CITY by DAY." \
    "|on DAY our shop in CITY wants COUNT COLOR ITEM." \
    "|CITY is out of COLOR ITEM, so please bring COUNT on DAY." \
    "|this is for CITY and for DAY: COUNT ITEM, all COLOR." \
    "|please make it COUNT COLOR ITEM, delivered on DAY to CITY." \
    "|my sister in CITY would love COUNT ITEM in COLOR, ideally on DAY." \
    "|can COUNT COLOR ITEM reach CITY this DAY?" \
    "|the CITY office asked for COLOR ITEM, COUNT of them, for DAY." \
    "|it would be great to have COUNT COLOR ITEM on DAY at our place in CITY."
  distracting = "please send COUNT COLOR ITEM to CITY on DAY, not on DAY2." \
    "|I live in CITY2, but the COUNT COLOR ITEM go to CITY on DAY." \
    "|we close on DAY2, so bring COUNT COLOR ITEM to CITY on DAY." \
    "|not CITY2 this time: COUNT COLOR ITEM to CITY on DAY, please."
  hurried = "It is urgent.|Please hurry!|We cannot wait.|As fast as you can, please.|This is an emergency."
  relaxed = "No rush.|Take your time.|There is no hurry.|Thank you!|It can wait a little."

  for (made = 0; made < train + held; ) {
    count = 1 + random(9); color = pick(colors); item = pick(items); city = pick(cities); day = pick(days)
    rush = random(2) ? "yes" : "no"
    city2 = another(cities, city); day2 = another(days, day)
    line = answer()
    if (line in seen) continue
    seen[line] = 1
    text = sentence()
    text = toupper(substr(text, 1, 1)) substr(text, 2)
    printf "{\"prompt\":\"%s\",\"completion\":\"%s\"}\n", text, line > (folder (++made <= train ? "/train.jsonl" : "/eval.jsonl"))
  }
}
