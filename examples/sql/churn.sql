-- Which customers will leave, and whom to call first? 10,000 customers with what a company knows of them: dates, strings, lists
-- of strings, numbers that are missing. They are made up by the rule below, so that nothing need be fetched and the network
-- can be compared with the best that anyone could do, which is to know the rule.
--
--     firesteel sql -f examples/sql/churn.sql

-- Numbers that look random but are the same on every run, between 0 and 1.
CREATE TABLE draws AS
SELECT id, id * (id + 11) * 7919 % 1000003 / 1000003.0 AS a, id * (id + 23) * 6101 % 1000003 / 1000003.0 AS b,
  id * (id + 37) * 4787 % 1000003 / 1000003.0 AS c, id * (id + 51) * 3571 % 1000003 / 1000003.0 AS d,
  id * (id + 73) * 2897 % 1000003 / 1000003.0 AS e, id * (id + 97) * 2203 % 1000003 / 1000003.0 AS f,
  id * (id + 131) * 1709 % 1000003 / 1000003.0 AS g, id * (id + 151) * 9241 % 1000003 / 1000003.0 AS h
FROM (SELECT value AS id FROM generate_series(1, 10000));

CREATE TABLE customers AS
SELECT id, DATE '2019-01-01' + CAST(a * 2100 AS INT) AS joined,
  CASE WHEN b < 0.55 THEN 'monthly' WHEN b < 0.8 THEN 'one year' ELSE 'two years' END AS contract,
  CASE WHEN c < 0.4 THEN 'fibre' WHEN c < 0.75 THEN 'cable' ELSE 'mobile' END AS line,
  CASE WHEN d >= 0.1 THEN round(15 + 60 * d + CASE WHEN c < 0.4 THEN 25 ELSE 0 END, 2) END AS monthly_charge,
  CAST(6 * e * e AS INT) AS support_calls,
  CASE WHEN f >= 0.08 THEN CAST(120 * f * f AS INT) END AS days_away,
  array_remove_all([CASE WHEN g < 0.5 THEN 'tv' ELSE '' END, CASE WHEN g * 7 % 1 < 0.4 THEN 'security' ELSE '' END,
    CASE WHEN g * 13 % 1 < 0.3 THEN 'family' ELSE '' END, CASE WHEN g * 29 % 1 < 0.2 THEN 'backup' ELSE '' END], '') AS tags, h
FROM draws;

-- The rule: new customers without a contract leave, and those who call often, pay much or have not been seen for long; those
-- with security stay, families with television too, and calls about fibre are the worst sign. The rest is chance. Who was
-- never seen has NULL days away, of which a network makes the mean: that it was NULL is a feature of its own.
CREATE TABLE churn AS
SELECT * EXCLUDE (h, logit), days_away IS NULL AS never_seen, 1 / (1 + exp(-logit)) AS rule, h < 1 / (1 + exp(-logit)) AS churned
FROM (SELECT *, -2.6 + CASE contract WHEN 'monthly' THEN 1.6 WHEN 'one year' THEN 0.3 ELSE -0.8 END
    - 0.3 * (DATE '2025-01-01' - joined) / 365 + 0.45 * support_calls + 0.02 * (coalesce(monthly_charge, 50) - 50)
    + coalesce(0.02 * days_away, 1.5) + CASE WHEN line = 'fibre' AND support_calls >= 3 THEN 1.5 ELSE 0 END
    - CASE WHEN array_has(tags, 'security') THEN 1 ELSE 0 END
    - CASE WHEN array_has(tags, 'tv') AND array_has(tags, 'family') THEN 1 ELSE 0 END AS logit
  FROM customers);
CREATE VIEW test AS SELECT * FROM churn WHERE id % 5 = 0;

-- Of the date the parts are learned, of each tag whether it is there, of the strings a vector.
CREATE OR REPLACE MODEL churn OPTIONS (
  model_type = 'dnn_classifier', input_label_cols = ['churned'], hidden_units = [64, 32], dropout = 0.2, learn_rate = 0.003,
  max_iterations = 40, seed = 1
) AS SELECT * EXCLUDE (id, rule) FROM churn WHERE id % 5 > 0;
SELECT * FROM ML.FEATURE_INFO(MODEL churn);

SELECT * FROM ML.EVALUATE(MODEL churn, TABLE test);

-- A call costs 5 and keeps one in three who would leave, worth 45: of each who would, 10 are gained, of each other 5 are lost.
-- So a call pays from a probability of a third on, if probabilities are right; the curve says from which on it did.
SELECT round(threshold, 2) AS call_from, true_positives + false_positives AS calls, true_positives AS leaving,
  10 * true_positives - 5 * false_positives AS gained
FROM ML.ROC_CURVE(MODEL churn, TABLE test) ORDER BY gained DESC, calls LIMIT 1;
SELECT precision, recall, accuracy FROM ML.EVALUATE(MODEL churn, TABLE test, threshold => 0.3333);

-- All customers of the test in five parts, those first who are likeliest to leave: the part of all who left that each holds, by
-- the network and by one who knows the rule. By chance each would hold a fifth.
CREATE TABLE scored AS
SELECT *, nn_prob('churn', true, joined, contract, line, monthly_charge, support_calls, days_away, tags, never_seen) AS probability
FROM test;
WITH parts AS (
  SELECT churned, ntile(5) OVER (ORDER BY probability DESC, id) AS network, ntile(5) OVER (ORDER BY rule DESC, id) AS rule
  FROM scored),
held AS (SELECT unnest([network, rule]) AS part, unnest([1, 0]) AS network, churned FROM parts)
SELECT part, round(100.0 * sum(network) / sum(sum(network)) OVER (), 1) AS percent_by_network,
  round(100.0 * sum(1 - network) / sum(sum(1 - network)) OVER (), 1) AS percent_by_rule
FROM held WHERE churned GROUP BY part ORDER BY part;

-- Call these first.
SELECT id, round(probability, 2) AS probability, contract, line, monthly_charge, support_calls, days_away, tags, churned
FROM scored ORDER BY probability DESC, id LIMIT 10;

-- What if customers without a contract took one for a year?
SELECT line, count(*) AS customers, round(avg(probability), 2) AS monthly,
  round(avg(nn_prob('churn', true, joined, 'one year', line, monthly_charge, support_calls, days_away, tags, never_seen)), 2)
    AS one_year
FROM scored WHERE contract = 'monthly' GROUP BY line ORDER BY line;
